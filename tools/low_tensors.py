"""Models in fp32 that show what a low type does, whatever the runtime computes in.

ONNX Runtime's CPU has next to no kernels for fp16: it computes such a graph in fp32 and, even with
all of its optimizations off, takes out the casts between nodes, those that the model has at its
inputs as well. An overflow does not show there, and little but the weights is rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv
from onnx.reference.ops.op_conv_transpose import ConvTranspose
from onnx.reference.ops.op_gemm import Gemm_7
from onnx.reference.ops.op_layer_normalization import LayerNormalization
from onnx.reference.ops.op_matmul import MatMul

from graphopt.ir.query import all_graphs, constant_tensor, is_standard, nodes_of
from graphopt_passes.cast_precision.low import LowType

FLOAT = ir.DataType.FLOAT


def numbers_of(model: ir.Model, low: LowType) -> ir.Model:
    """A copy of `model`, whose types are known, with all of `low` in fp32 and rounded to `low`.

    What a node gives in `low` goes through a cast to it and back, so that the next one reads
    numbers of `low`, infinity for an overflow. A node by itself computes in fp32.
    """
    copy = model.clone()
    given = [value for value in _given(copy) if value.dtype == low.dtype]
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype == low.dtype:
                value.const_value = _wide(value.const_value)
                value.type = ir.TensorType(FLOAT)
        for value in graph.inputs:
            if value.dtype == low.dtype:
                value.type = ir.TensorType(FLOAT)
    for node in nodes_of(copy):
        _widen_attributes(node, low)
    for value in given:
        value.type = ir.TensorType(FLOAT)
        _round(value, low)
    return copy


def exact_weights(exact: ir.Model, cast: ir.Model, low: LowType) -> ir.Model:
    """A copy of `exact`, in fp32, that rounds the tensors which are of `low` in `cast`.

    Weights are not rounded: what is lost now is lost by storing data in `low`. Other weights than
    the nearest numbers may make up for a part of it.

    Args:
        cast: what `cast-precision` made of `exact`; tensors have kept their names.
    """
    copy = exact.clone()
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            value.const_value = _held(value.const_value, low)
    stored = {value.name for value in _given(cast) if value.dtype == low.dtype}
    for node in nodes_of(cast):
        if is_standard(node, "Cast"):
            source, result = node.inputs[0], node.outputs[0]
            if source is not None and source.dtype == low.dtype:
                stored.add(result.name)  # an output of the model, which is cast back to its type
            elif source is not None and source.producer() is None and result.dtype == low.dtype:
                stored.add(source.name)  # an input of the model
    for value in [*copy.graph.inputs, *_given(copy)]:
        if value.name in stored and constant_tensor(value) is None:
            _round(value, low)
    return copy


def _given(model: ir.Model) -> list[ir.Value]:
    return [value for node in nodes_of(model) for value in node.outputs]


def _widen_attributes(node: ir.Node, low: LowType) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == low.dtype:
            node.attributes[name] = ir.AttrTensor(name, _wide(attribute.value))
        elif name in ("to", "dtype", "output_dtype") and attribute.value == low.dtype:
            node.attributes[name] = ir.AttrInt64(name, FLOAT)


def _held(tensor: ir.TensorProtocol | None, low: LowType) -> ir.TensorProtocol | None:
    """`tensor`; a scalar, which a Where may choose as a mask, no larger than the pass makes it."""
    if tensor is None or tensor.dtype != FLOAT or tensor.size > 1:
        return tensor
    return ir.tensor(np.clip(tensor.numpy(), low.mask, -low.mask), name=tensor.name)


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _round(value: ir.Value, low: LowType) -> None:
    """Puts two casts behind `value`, for all that read it; a graph output keeps its name."""
    producer, graph = value.producer(), value.graph
    assert graph is not None
    first = ir.Node("", "Cast", [value], [ir.AttrInt64("to", low.dtype)])
    second = ir.Node("", "Cast", [first.outputs[0]], [ir.AttrInt64("to", FLOAT)])
    result, name = second.outputs[0], value.name
    for made, kind in ((first.outputs[0], low.dtype), (result, FLOAT)):
        made.type, made.shape = ir.TensorType(kind), value.shape
    first.outputs[0].name = f"{name}:{low.name}"
    for reader, index in value.uses():
        if reader is not first:
            reader.replace_input_with(index, result)
    if producer is None:
        result.name = f"{name}:rounded"
        graph.insert_before(graph[0], [first, second])
        return
    value.name, result.name = f"{name}:exact", name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    graph.insert_after(producer, [first, second])


def summed_in_single() -> list[type[OpRun]]:
    """Operators for the reference evaluator that compute in fp32 and round what they give.

    So do the kernels of a GPU with their sums, and LayerNormalization by its definition. numpy,
    which the evaluator leaves it to, does so too for products of fp16, but a hundred times slower.
    """
    kinds = {
        "Conv": Conv,
        "ConvTranspose": ConvTranspose,
        "Gemm": Gemm_7,
        "LayerNormalization": LayerNormalization,
        "MatMul": MatMul,
    }
    return [_in_single(name, kind) for name, kind in kinds.items()]


def _in_single(name: str, kind: type[OpRun]) -> type[OpRun]:
    def _run(self: Any, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        kept = inputs[0].dtype
        wide = [None if x is None else x.astype(np.float32) for x in inputs]
        return tuple(x.astype(kept) for x in kind._run(self, *wide, **attributes))

    return type(name, (kind,), {"_run": _run, "op_domain": ""})
