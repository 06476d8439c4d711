"""A model in double precision, where rounding cannot be mistaken for an error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graphopt.data.feeds import Feed
from graphopt.ir.query import all_graphs, nodes_of

NARROW = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def run_in_double(
    model: ir.Model, names: Iterable[str], feed: Feed, *, rounded: bool = False
) -> Feed:
    """The values `names` of the main graph, by onnx's reference evaluator in float64.

    Args:
        rounded: what each node of the main graph gives is rounded to float32. It is a run in
            float32 then whose results do not depend on the order in which a kernel sums.

    Raises:
        Exception: whatever the evaluator raises for an operator that it does not have.
    """
    proto = ir.to_proto(in_double(model))
    wanted = list(names)
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    wide = {
        name: array.astype(np.float64) if _is_narrow(array.dtype) else array
        for name, array in feed.items()
    }
    if rounded:
        _round_each(proto)
    evaluator = ReferenceEvaluator(proto, new_ops=OPERATORS)
    return dict(zip(wanted, evaluator.run(None, wide), strict=True))


def _round_each(proto: onnx.ModelProto) -> None:
    """Lets the main graph round what each node gives."""
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.opset_import.append(helper.make_opsetid(Rounded.op_domain, 1))
    for node in nodes:
        proto.graph.node.append(node)
        exact = proto.graph.node[-1].output
        for index, name in enumerate(exact):
            if name:
                exact[index] = f"{name}:exact"
                rounding = helper.make_node(
                    "Rounded", [f"{name}:exact"], [name], domain=Rounded.op_domain
                )
                proto.graph.node.append(rounding)


class Rounded(OpRun):
    """Floating-point numbers as float32 has them; anything else as it is."""

    op_domain = "graphopt.single"

    def _run(self, x: Any) -> tuple[Any]:
        if isinstance(x, np.ndarray) and x.dtype == np.float64:
            return (x.astype(np.float32).astype(np.float64),)
        return (x,)


class GatherElements(OpRun):
    """In place of the evaluator's own, which fails on two axes of which the first is 1."""

    op_domain = ""

    def _run(self, data: Any, indices: Any, axis: int | None = None) -> tuple[Any]:
        return (np.take_along_axis(data, indices, axis or 0),)


class GlobalMaxPool(OpRun):
    """In place of the evaluator's own, which also reduces the channels of three axes."""

    op_domain = ""

    def _run(self, x: Any) -> tuple[Any]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class BatchNormalization(OpRun):
    """In place of the evaluator's own, which up to opset 13 takes any for one in training."""

    op_domain = ""

    def _run(
        self,
        x: Any,
        scale: Any,
        bias: Any,
        mean: Any,
        variance: Any,
        epsilon: float | None = None,
        training_mode: int | None = None,
        spatial: int | None = None,
        **_: Any,
    ) -> tuple[Any]:
        if training_mode or spatial == 0 or sum(map(bool, self.onnx_node.output)) > 1:
            raise RuntimeError("BatchNormalization in training, or of each pixel by itself")
        small = 1e-5 if epsilon is None else epsilon
        each = (-1, *[1] * (x.ndim - 2))
        factor = (scale / np.sqrt(variance + small)).reshape(each)
        return ((x - mean.reshape(each)) * factor + bias.reshape(each),)


OPERATORS = [BatchNormalization, GatherElements, GlobalMaxPool, Rounded]


def in_double(model: ir.Model) -> ir.Model:
    """A copy of `model` whose narrower floating-point tensors are all float64.

    It is for the reference evaluator, which asks for no types: operators that ONNX only defines in
    float32 get float64 as well.
    """
    copy = model.clone()
    for graph in all_graphs(copy):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in NARROW:
                value.const_value = _widened(value.const_value)
    for value in _values(copy):
        if value.dtype in NARROW:
            value.type = ir.TensorType(ir.DataType.DOUBLE)
    for node in nodes_of(copy):
        for name, attribute in list(node.attributes.items()):
            changed = _widened_attribute(node.op_type, name, attribute)
            if changed is not None:
                del node.attributes[name]
                node.attributes[changed.name] = changed
    return copy


def _values(model: ir.Model) -> Iterable[ir.Value]:
    for graph in all_graphs(model):
        yield from (*graph.inputs, *graph.initializers.values())
    for node in nodes_of(model):
        yield from node.outputs


def _widened_attribute(op_type: str, name: str, attribute: ir.Attr) -> ir.Attr | None:
    """What takes the place of an attribute that states a type or holds a tensor, if anything."""
    if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in NARROW:
        return ir.AttrTensor(name, _widened(attribute.value))
    if op_type == "Constant" and name in ("value_float", "value_floats"):
        return ir.AttrTensor("value", ir.tensor(np.array(attribute.value, dtype=np.float64)))
    if name in ("to", "dtype", "output_dtype") and attribute.type == ir.AttributeType.INT:
        return ir.AttrInt64(name, ir.DataType.DOUBLE) if attribute.value in NARROW else None
    return None


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float64), name=tensor.name)


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
