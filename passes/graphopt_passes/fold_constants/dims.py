"""What is certain about shapes.

A shape that a file records for an intermediate value is a claim: no runtime enforces it, and after
an edit of the inputs (a batch made dynamic, say) it is often stale. What a runtime does enforce is
the shape of the graph's inputs. So all others are inferred anew from those; and every dynamic
dimension gets its own name first, since files use one name ("?", "None") for unrelated dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import subgraphs
from graphopt.ir.checking import graphs_of, skeleton_of_model

Dim: TypeAlias = "int | str"
"""A number, or the name of one that is not known: equal names are equal numbers."""

Dims: TypeAlias = tuple[Dim, ...]


def certain_dims(model: ir.Model) -> Mapping[ir.Value, Dims]:
    """The dimensions of the values whose rank follows from the graph's inputs and weights.

    Values of functions are not looked at; the model is not changed.

    Raises:
        GraphoptError: if onnx refuses to infer shapes for the model.
    """
    proto = skeleton_of_model(model)
    _keep_only_inputs(proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
        ValueError,
    ) as error:
        first = " ".join(str(error).split())
        raise GraphoptError(f"shape inference failed: {first}", where=model.graph.name) from None
    return dict(_matched(model.graph, inferred.graph))


def _keep_only_inputs(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    inputs = {value.name for value in graph.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in inputs:
            del graph.initializer[index]
    for number, value in enumerate(graph.input):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value") or dim.dim_value < 0:
                    dim.dim_param = f"input {number} axis {axis}"
    for inner in graphs_of(graph):
        held = {tensor.name for tensor in inner.initializer}
        claims = [*inner.value_info, *inner.output]
        if inner is not graph:
            claims.extend(inner.input)
        for value in claims:
            if value.name not in held:
                _forget_shape(value.type)


def _forget_shape(type_: onnx.TypeProto) -> None:
    kind = type_.WhichOneof("value")
    if kind == "tensor_type":
        type_.tensor_type.ClearField("shape")
    elif kind == "sparse_tensor_type":
        type_.sparse_tensor_type.ClearField("shape")
    elif kind == "sequence_type":
        _forget_shape(type_.sequence_type.elem_type)
    elif kind == "optional_type":
        _forget_shape(type_.optional_type.elem_type)
    elif kind == "map_type":
        _forget_shape(type_.map_type.value_type)


def _matched(graph: ir.Graph, proto: onnx.GraphProto) -> Iterator[tuple[ir.Value, Dims]]:
    shapes = {
        value.name: value.type.tensor_type.shape.dim
        for value in (*proto.input, *proto.value_info, *proto.output)
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }
    values: list[ir.Value] = [*graph.inputs]
    for node in graph:
        values.extend(node.outputs)
    for value in values:
        if value.name and value.name in shapes:
            yield value, _read(value, shapes[value.name])
    for value in graph.initializers.values():
        if value.const_value is not None and not value.is_graph_input():
            yield value, tuple(int(dim) for dim in value.const_value.shape.numpy())
    for node, node_proto in zip(graph, proto.node, strict=True):
        for inner, inner_proto in zip(subgraphs(node), _subgraphs(node, node_proto), strict=True):
            yield from _matched(inner, inner_proto)


def _subgraphs(node: ir.Node, proto: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of `proto`, in the order of `subgraphs(node)`."""
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    for name in node.attributes:
        if attributes[name].HasField("g"):
            yield attributes[name].g
        yield from attributes[name].graphs


def _read(value: ir.Value, dims: Sequence[onnx.TensorShapeProto.Dimension]) -> Dims:
    return tuple(
        dim.dim_value
        if dim.HasField("dim_value")
        else dim.dim_param or f"value {value.name} axis {axis}"
        for axis, dim in enumerate(dims)
    )
