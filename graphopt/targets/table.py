"""The targets that graphopt knows.

M marks what was measured by building with TensorRT-RTX 1.7, R what NVIDIA's documentation states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from graphopt.errors import GraphoptError, any_of, did_you_mean
from graphopt.targets.pace import MLAS_PACE, Pace

# R: the channel multiples that fill a tensor core ("Optimizing for Tensor Cores"; fp32 is TF32).
_TENSOR_CORES: Mapping[str, int] = MappingProxyType(
    {"fp32": 4, "fp16": 8, "bf16": 8, "int8": 16, "fp8": 16, "int4": 32, "fp4": 32}
)
# MLAS blocks float channels by 16 with AVX-512 (by 8 without), and packs int8 dot products by 4.
# M: where counts are no multiples of 16, a net of half the MACs took up to twice as long as the
# whole; so plain ONNX, which runs there most often, gets the same.
_MLAS: Mapping[str, int] = MappingProxyType({"fp32": 16, "int8": 4})

# M: below 7 the parser refuses broadcasting; Q/DQ builds up to 25. R: TensorRT states 9 to 24.
_TENSORRT_OPSETS = (7, 25)

# M: TensorRT-RTX builds all other operators that a fusion makes; an Attention of four dimensions
# fails in its compiler.
_TENSORRT_UNWANTED = frozenset({"Attention"})
# R: 8.6 was the first to read them.
_UNKNOWN_TO_8_5 = frozenset({"LayerNormalization", "GroupNormalization"})
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

# R: Volta computes int8 products, but no bf16.
_VOLTA = frozenset({"fp32", "fp16", "int8"})
# M: TensorRT-RTX refuses an fp32 Gemm on Turing, and makes an int8 Conv float without a word.
_TURING = frozenset({"fp16"})
_AMPERE = frozenset({"fp32", "fp16", "bf16", "int8", "int4"})
_ADA = _AMPERE | {"fp8"}
_BLACKWELL = _ADA | {"fp4"}

# What has a precision, for those who ask why another GPU has not.
_SINCE: Mapping[str, str] = MappingProxyType(
    {
        "fp32": "TensorRT multiplies fp32 matrices from SM 8.0 (Ampere) on",
        "int8": "TensorRT makes int8 kernels of Q/DQ from SM 8.0 (Ampere) on",
        "bf16": "bf16 needs SM 8.0 (Ampere) or newer",
        "int4": "int4 weights need SM 8.0 (Ampere) or newer",
        "fp8": "fp8 needs SM 8.9 (Ada) or newer",
        "fp4": "fp4 needs Blackwell: SM 10.0 or newer",
    }
)

# R: JetPack 5 has TensorRT 8.5, 6.0 has 8.6, 6.1 and 6.2 have 10.3, 7.0 has 10.13 and 7.2.2 has
# 11.4. Xavier ends with JetPack 5, Thor begins with 7.
_JETPACK_5 = ("8.5", "8.5")
_JETPACK_5_TO_7 = ("8.5", "11.4")
_JETPACK_7 = ("10.13", "11.4")
# What `emit/tensorrt` drives. R: Blackwell came with 10.8.
_SINCE_10_3 = ("10.3", "11.4")
_SINCE_10_8 = ("10.8", "11.4")


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
        blocked_channels: how many channels of an image its float kernels keep side by side,
            from one layer to the next; 0 if they do not.
        pace: how the time of a layer follows from its channels, where that is known and is not in
            proportion to the multiply-accumulates.
        opsets: the least and the greatest opset of the default ONNX domain, where that is known.
        backends: the engine builders for it, the preferred one first; none where no engine exists.
        stand_in: a target to check a model with where this one cannot be built for.
        sparsity: the structured sparsity that its kernels use, or None.
        dla_cores: how many deep learning accelerators it has at most; 0 if none.
        tensorrt: the least and the greatest TensorRT that it runs, as far as graphopt knows; None
            where there is no one answer.
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
    blocked_channels: int = 0
    pace: Pace | None = None
    opsets: tuple[int, int] | None = None
    backends: tuple[str, ...] = ()
    stand_in: str | None = None
    sparsity: str | None = None
    dla_cores: int = 0
    tensorrt: tuple[str, str] | None = None
    unwanted_operators: frozenset[str] = frozenset()

    def why_not(self, precision: str) -> str | None:
        """Why it does not compute in `precision`, such as "fp8", in one line; None if it does."""
        if precision in self.precisions:
            return None
        return f"the target '{self.name}' does not compute in {precision}{self.because(precision)}"

    def because(self, precision: str) -> str:
        """What of its hardware lacks `precision`, as the end of a sentence; "" if not known."""
        if precision in self.precisions or self.sm is None or precision not in _SINCE:
            return ""
        return f": {_SINCE[precision]}, and it is SM {self.sm}"

    def precisions_text(self) -> str:
        """Its precisions in one line, the widest first."""
        return ", ".join(name for name in _TENSOR_CORES if name in self.precisions)


def get_target(name: str | Target) -> Target:
    """The target called `name`; a target is itself.

    Raises:
        GraphoptError: if there is none; it names the nearest one.
    """
    if isinstance(name, Target):
        return name
    if name not in _TARGETS:
        raise GraphoptError(f"there is no target '{name}'", fix=_meant(str(name)))
    return _TARGETS[name]


def _meant(name: str) -> str:
    """What to write in place of `name`: SM numbers are no words to be misspelt."""
    number = re.fullmatch(r"(?:sm|compute)?[_ ]?(\d+)\.?(\d)[af]?", name.lower())
    if number is None:
        hint = did_you_mean(name, [*_TARGETS])
        return hint if hint.startswith("did") else f"{hint}; 'graphopt targets' says what they are"
    of_that_sm = [key for key, target in _TARGETS.items() if target.sm == ".".join(number.groups())]
    return any_of(of_that_sm[:3]) if of_that_sm else "'graphopt targets' lists what is known"


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
    dla_cores: int = 0,
    tensorrt: tuple[str, str] = _SINCE_10_3,
    unwanted: frozenset[str] = _TENSORRT_UNWANTED,
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
        dla_cores=dla_cores,
        tensorrt=tensorrt,
        unwanted_operators=unwanted,
    )


def _orin(name: str, description: str, *, dla_cores: int) -> Target:
    """An engine for a Jetson is built on the device itself; SM86 is its nearest relative."""
    return _gpu(
        name,
        "8.7",
        description,
        _AMPERE,
        backends=("tensorrt",),
        stand_in="sm86",
        dla_cores=dla_cores,
        tensorrt=_JETPACK_5_TO_7,
    )


_TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target("generic", "plain ONNX for any runtime", alignment=_MLAS, pace=MLAS_PACE),
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
            _gpu("sm75", "7.5", "Turing: T4, RTX 20", _TURING, sparsity=None),
            _gpu("sm80", "8.0", "Ampere: A100, A30", _AMPERE),
            _gpu("sm86", "8.6", "Ampere: A10, A40, RTX 30", _AMPERE),
            _gpu("sm89", "8.9", "Ada: L4, L40, RTX 40", _ADA),
            # TensorRT-RTX does not build for the next two: only their own machines can.
            _gpu("sm90", "9.0", "Hopper: H100, H200", _ADA, backends=("tensorrt",)),
            _gpu(
                "sm100",
                "10.0",
                "Blackwell: B200",
                _BLACKWELL,
                backends=("tensorrt",),
                tensorrt=_SINCE_10_8,
            ),
            _gpu("sm120", "12.0", "Blackwell: RTX 50, RTX PRO", _BLACKWELL, tensorrt=_SINCE_10_8),
            _gpu("sm121", "12.1", "Blackwell: DGX Spark", _BLACKWELL, tensorrt=_SINCE_10_8),
            _gpu(
                "jetson-xavier",
                "7.2",
                "Jetson Xavier",
                _VOLTA,
                backends=("tensorrt",),
                sparsity=None,
                dla_cores=2,
                tensorrt=_JETPACK_5,
                unwanted=_TENSORRT_UNWANTED | _UNKNOWN_TO_8_5,
            ),
            _orin("jetson-orin", "Jetson Orin, any module", dla_cores=2),
            _orin("jetson-orin-nano", "Jetson Orin Nano", dla_cores=0),
            _orin("jetson-orin-nx", "Jetson Orin NX", dla_cores=2),
            _orin("jetson-agx-orin", "Jetson AGX Orin", dla_cores=2),
            _gpu(
                "jetson-thor",
                "11.0",
                "Jetson Thor",
                _BLACKWELL,
                backends=("tensorrt",),
                tensorrt=_JETPACK_7,
            ),
            Target(
                "onnxruntime-cpu",
                "ONNX Runtime on a CPU",
                family="onnxruntime-cpu",
                precisions=frozenset({"fp32", "int8"}),
                weight_formats=_ORT_WEIGHTS,
                data_formats=_ORT_DATA,
                alignment=_MLAS,
                blocked_channels=_MLAS["fp32"],
                pace=MLAS_PACE,
                unwanted_operators=_ORT_UNWANTED,
            ),
        )
    }
)
