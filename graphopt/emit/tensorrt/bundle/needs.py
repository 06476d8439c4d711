"""What a model needs of the TensorRT that is to build it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import default_opset, nodes_of

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


def tensorrt_range(model: ir.Model) -> TensorRTRange:
    """The versions of TensorRT whose parser reads `model`."""
    newest = (11, 99)
    opset = default_opset(model)
    newer = sorted(set(precisions_of(model)) - _TENSORRT_8_TYPES)
    if newer:
        return TensorRTRange((10, 3), newest, f"it holds {', '.join(newer)}")
    if opset is not None and opset > _TENSORRT_8_OPSET:
        return TensorRTRange((10, 3), newest, f"its opset is {opset}")
    return TensorRTRange((8, 5), newest)


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
