"""The targets that graphopt knows.

M marks what was measured by building with TensorRT-RTX 1.7, R what NVIDIA's documentation states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from graphopt.errors import GraphoptError, did_you_mean

# R: the channel multiples that fill a tensor core ("Optimizing for Tensor Cores"; fp32 is TF32).
_TENSOR_CORES: Mapping[str, int] = MappingProxyType(
    {"fp32": 4, "fp16": 8, "bf16": 8, "int8": 16, "fp8": 16, "int4": 32, "fp4": 32}
)
# MLAS blocks float channels by 16 with AVX-512 (by 8 without), and packs int8 dot products by 4.
# M: where counts are no multiples of 16, a net of half the MACs took twice as long as the whole.
_MLAS: Mapping[str, int] = MappingProxyType({"fp32": 16, "int8": 4})

# M: below 7 the parser refuses broadcasting; Q/DQ builds up to 25. R: TensorRT states 9 to 24.
_TENSORRT_OPSETS = (7, 25)

# M: TensorRT-RTX builds all other operators that a fusion makes; an Attention of four dimensions
# fails in its compiler.
_TENSORRT_UNWANTED = frozenset({"Attention"})
# M: its GroupNormalization takes mean and variance in one pass. With a mean of 1000 deviations the
# result is off by 5% of the peak, which the nodes that spell it out are not.
_ORT_UNWANTED = frozenset({"GroupNormalization"})

_INTEGERS = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16"})
# M: what TensorRT-RTX reads. It refuses int16, uint4 and zero points other than 0, takes uint8 for
# int8 without a word, and compiles int4 from SM80 and fp8 from SM89 on; int8 weights everywhere.
_TENSORRT_WEIGHTS = frozenset({"int4", "int8", "fp8"})
_TENSORRT_DATA = frozenset({"int8", "fp8"})
# M: ONNX Runtime's optimizations garble fp8.
_ORT_WEIGHTS = _INTEGERS
_ORT_DATA = _INTEGERS - {"int4", "uint4"}

_TURING = frozenset({"fp16"})
_AMPERE = frozenset({"fp32", "fp16", "bf16", "int8", "int4"})
_ADA = _AMPERE | {"fp8"}
_BLACKWELL = _ADA | {"fp4"}


@dataclass(frozen=True)
class Target:
    """A thing that a model can be made for.

    Attributes:
        name: what the user writes, such as "sm86".
        description: one line for people.
        family: "tensorrt", "onnxruntime-cpu" or "generic": which placement rules hold.
        sm: the CUDA compute capability, such as "8.6"; None where it is not one certain GPU.
        precisions: the data types in which every Conv, Gemm and MatMul runs, among "fp32", "fp16",
            "bf16", "int8", "fp8", "int4" and "fp4" (the last two for weights only).
        weight_formats: what constant weights may be stored in, with a DequantizeLinear behind them:
            names of `graphopt.quantization.FORMATS`.
        data_formats: what data may be quantized to, from the same names.
        alignment: by precision, what a channel count should be a multiple of; 1 where not listed.
        opsets: the least and the greatest opset of the default ONNX domain, where that is known.
        backends: the engine builders for it, the preferred one first; none where no engine exists.
        stand_in: a target to check a model with where this one cannot be built for.
        sparsity: the structured sparsity that its kernels use, or None.
        unwanted_operators: operators of the default ONNX domain that a fusion should not make for
            it, since it does not have them or runs the nodes they stand for better.
    """

    name: str
    description: str
    family: str = "generic"
    sm: str | None = None
    precisions: frozenset[str] = frozenset({"fp32", "fp16", "int8"})
    weight_formats: frozenset[str] = _INTEGERS | {"fp8"}
    data_formats: frozenset[str] = _INTEGERS | {"fp8"}
    alignment: Mapping[str, int] = field(default_factory=dict, hash=False)
    opsets: tuple[int, int] | None = None
    backends: tuple[str, ...] = ()
    stand_in: str | None = None
    sparsity: str | None = None
    unwanted_operators: frozenset[str] = frozenset()


def get_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        GraphoptError: if there is none; it names the nearest one.
    """
    if name not in _TARGETS:
        raise GraphoptError(f"there is no target '{name}'", fix=did_you_mean(name, [*_TARGETS]))
    return _TARGETS[name]


def target_names() -> tuple[str, ...]:
    """The names of all targets."""
    return tuple(_TARGETS)


def _gpu(
    name: str,
    sm: str,
    description: str,
    precisions: frozenset[str],
    *,
    backends: tuple[str, ...] = ("rtx-aot", "tensorrt"),
    stand_in: str | None = None,
    sparsity: str | None = "2:4",
) -> Target:
    return Target(
        name,
        description,
        family="tensorrt",
        sm=sm,
        precisions=precisions,
        weight_formats=_TENSORRT_WEIGHTS & precisions | {"int8"},
        data_formats=_TENSORRT_DATA & precisions,
        alignment=_TENSOR_CORES,
        opsets=_TENSORRT_OPSETS,
        backends=backends,
        stand_in=stand_in,
        sparsity=sparsity,
        unwanted_operators=_TENSORRT_UNWANTED,
    )


_TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target("generic", "plain ONNX for any runtime"),
            Target(
                "tensorrt",
                "TensorRT on whatever GPU this machine has",
                family="tensorrt",
                precisions=_AMPERE,
                weight_formats=_TENSORRT_WEIGHTS & _AMPERE,
                data_formats=_TENSORRT_DATA & _AMPERE,
                alignment=_TENSOR_CORES,
                opsets=_TENSORRT_OPSETS,
                backends=("tensorrt",),
                unwanted_operators=_TENSORRT_UNWANTED,
            ),
            # M: fp32 Gemm is refused here, and int8 Conv silently becomes float.
            _gpu("sm75", "7.5", "Turing: T4, RTX 20", _TURING, sparsity=None),
            _gpu("sm80", "8.0", "Ampere: A100, A30", _AMPERE),
            _gpu("sm86", "8.6", "Ampere: A10, A40, RTX 30", _AMPERE),
            _gpu("sm89", "8.9", "Ada: L4, L40, RTX 40", _ADA),
            _gpu("sm120", "12.0", "Blackwell: RTX 50, RTX PRO", _BLACKWELL),
            _gpu("sm121", "12.1", "Blackwell: DGX Spark", _BLACKWELL),
            # An engine for a Jetson is built on the device itself; SM86 is its nearest relative.
            _gpu(
                "jetson-orin",
                "8.7",
                "Jetson Orin",
                _AMPERE,
                backends=("tensorrt",),
                stand_in="sm86",
            ),
            _gpu("jetson-thor", "11.0", "Jetson Thor", _BLACKWELL, backends=("tensorrt",)),
            Target(
                "onnxruntime-cpu",
                "ONNX Runtime on a CPU",
                family="onnxruntime-cpu",
                precisions=frozenset({"fp32", "int8"}),
                weight_formats=_ORT_WEIGHTS,
                data_formats=_ORT_DATA,
                alignment=_MLAS,
                unwanted_operators=_ORT_UNWANTED,
            ),
        )
    }
)
