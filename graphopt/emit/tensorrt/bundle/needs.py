"""What a model needs of the TensorRT that is to build it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, is_standard, label, nodes_of
from graphopt.targets import Target

_QUANTIZED = {
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "int4",
    ir.DataType.FLOAT8E4M3FN: "fp8",
    ir.DataType.FLOAT4E2M1: "fp4",
}
_FLOATS = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
}
# R: TensorRT 8.5 and 8.6 read opset 17 at most, and know neither bf16 nor the types below int8.
_TENSORRT_8_OPSET = 17
_TENSORRT_8_TYPES = frozenset({"fp32", "fp16", "int8"})
_NEWEST, _ANY = 11, 99
_TENSORRT_10 = (10, 3)
# R: when the parser learnt operators that lower opsets have (changelogs of onnx-tensorrt and of
# TensorRT). What came with 9.2 or 10.1 is first in 10.3 here.
_SINCE: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "IsInf": (8, 6),
        "LayerNormalization": (8, 6),
        "DeformConv": _TENSORRT_10,
        "Hardmax": _TENSORRT_10,
        "Attention": (10, 14),
        "RMSNormalization": (10, 15),
        "RotaryEmbedding": (10, 15),
        "TensorScatter": (10, 15),
    }
)
# R: TensorRT 10.6 is the first that was made with an ONNX that knows it.
_NEW_OPSET = 22


@dataclass(frozen=True)
class TensorRTRange:
    """The versions that can build a model, both ends included, as (major, minor).

    Attributes:
        reason: why the least is not the oldest that a bundle is made for; empty if it is.
    """

    least: tuple[int, int]
    greatest: tuple[int, int]
    reason: str = ""

    def __str__(self) -> str:
        least, greatest = (".".join(map(str, end)) for end in (self.least, self.greatest))
        return f"TensorRT {least} to {greatest.split('.')[0]}{self.reason and f' ({self.reason})'}"


def precisions_of(model: ir.Model) -> tuple[str, ...]:
    """The types of numbers in the graph, in order of name: "fp32", "fp16", "int8" and so on."""
    return tuple(sorted({name for dtype in _types(model) if (name := _name(dtype)) is not None}))


def require_precisions(precisions: Iterable[str], target: Target) -> None:
    """Raises GraphoptError if `target` cannot compute what the model holds.

    Integers of 8 bits are not among it: what has no kernels for them computes in floats.
    """
    for name in precisions:
        reason = target.why_not(name) if name not in _TENSORRT_8_TYPES else None
        if reason is not None:
            raise GraphoptError(
                f"the model holds {name}: {reason}", fix="choose another precision or target"
            )


def tensorrt_range(model: ir.Model, target: Target) -> TensorRTRange:
    """The versions of TensorRT that run on `target` and whose parser reads `model`.

    Raises:
        GraphoptError: if there are none.
    """
    needed, reason = _least(model)
    if target.tensorrt is None:
        return TensorRTRange(needed, (_NEWEST, _ANY), reason)
    least, greatest = map(_version, target.tensorrt)
    if needed > greatest:
        convert = f"convert it with the pass set-opset{{version={_TENSORRT_8_OPSET}}}, or "
        raise GraphoptError(
            f"the model needs TensorRT {'.'.join(map(str, needed))} or newer since {reason}, and "
            f"{target.name} has at most {target.tensorrt[1]}",
            fix=f"{convert if 'opset' in reason else ''}choose another target",
        )
    # A newer minor version than is known reads what an older one did.
    return TensorRTRange(max(needed, least), (greatest[0], _ANY), reason if needed > least else "")


def doubts(model: ir.Model, needs: TensorRTRange) -> list[str]:
    """What the older ones among `needs` may refuse: it is not known whether they do."""
    found = []
    opset = default_opset(model)
    if opset >= _NEW_OPSET and needs.least < (10, 6):
        found.append(
            f"the model's opset, {opset}, is younger than TensorRT 10.3: if that refuses it, "
            f"convert it with set-opset{{version={_NEW_OPSET - 1}}}"
        )
    stored = any(
        value.dtype == ir.DataType.INT8 and value.shape is not None and len(value.shape) > 1
        for graph in model.graphs()
        for value in graph.initializers.values()
    )
    if stored and needs.least < _TENSORRT_10:
        found.append(
            "weights are stored in int8, which TensorRT 8 (JetPack 5 and 6.0) may refuse: "
            "10.3 and newer read them"
        )
    return found


def _least(model: ir.Model) -> tuple[tuple[int, int], str]:
    """The oldest TensorRT whose parser reads `model`, and why not an older one."""
    reasons = [((8, 5), "")]
    newer = sorted(set(precisions_of(model)) - _TENSORRT_8_TYPES)
    if newer:
        reasons.append((_TENSORRT_10, f"it holds {', '.join(newer)}"))
    opset = default_opset(model)
    if opset > _TENSORRT_8_OPSET:
        reasons.append((_TENSORRT_10, f"its opset is {opset}"))
    for node in nodes_of(model):
        if node.op_type in _SINCE and is_standard(node, node.op_type):
            reasons.append((_SINCE[node.op_type], f"it has {node.op_type}, as '{label(node)}'"))
    return max(reasons, key=lambda reason: reason[0])  # the first of equals


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _name(dtype: ir.DataType | None) -> str | None:
    return None if dtype is None else _FLOATS.get(dtype) or _QUANTIZED.get(dtype)


def _types(model: ir.Model) -> Iterator[ir.DataType | None]:
    """The types of inputs, initializers, constants, casts; of integers those that are quantized."""
    for value in model.graph.inputs:
        if value.dtype in _FLOATS:
            yield value.dtype
    for graph in model.graphs():
        for initializer in graph.initializers.values():
            if initializer.dtype in _FLOATS:
                yield initializer.dtype
    for node in nodes_of(model):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield _quantized(node)
        elif node.op_type in ("Cast", "Constant"):
            yield _written(node)


def _quantized(node: ir.Node) -> ir.DataType | None:
    """The quantized type at a Q/DQ node: of its zero point, of what it reads, or as it says."""
    inputs = [value for value in node.inputs if value is not None]
    zero_point = inputs[2].dtype if len(inputs) > 2 else None
    if zero_point is not None:
        return zero_point
    if node.op_type == "DequantizeLinear":
        return inputs[0].dtype
    told = node.attributes.get("output_dtype")
    return ir.DataType(told.as_int()) if told is not None else ir.DataType.UINT8


def _written(node: ir.Node) -> ir.DataType | None:
    if node.op_type == "Cast" and "to" in node.attributes:
        dtype = ir.DataType(node.attributes["to"].as_int())
    elif "value" in node.attributes:
        dtype = node.attributes["value"].as_tensor().dtype
    else:
        return None
    return dtype if dtype in _FLOATS else None
