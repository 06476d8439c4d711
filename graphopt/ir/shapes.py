"""Shape inference: onnx's own, with the weights left out."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.checking import skeleton_of_model, subgraphs_of
from graphopt.ir.query import static_shape, subgraphs

_REFUSED = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
    ValueError,
)


def infer_shapes(model: ir.Model) -> None:
    """Fills in the types and shapes of intermediate values, in place, in all graphs.

    What is already known is kept: a static or named dimension is never made less precise. The
    inputs and outputs of the main graph are the caller's interface and stay as they are. A value
    that inference cannot reach (a custom operator, or shapes that contradict one another) keeps
    what it has.

    Raises:
        GraphoptError: if onnx refuses the model as a whole.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton_of_model(model), data_prop=True)
    except _REFUSED as error:
        first = str(error).strip().splitlines()[0]
        raise GraphoptError(f"shape inference failed: {first}", where=model.graph.name) from None
    _read_back(model.graph, inferred.graph, {*model.graph.inputs, *model.graph.outputs})


def _read_back(graph: ir.Graph, proto: onnx.GraphProto, interface: set[ir.Value]) -> None:
    """Takes over what `proto`, which was made from `graph`, states of its values."""
    known = _own_values(graph)
    for info in (*proto.input, *proto.value_info, *proto.output):
        value = known.get(info.name)
        if value is not None and value not in interface and not _is_settled(value):
            _merge(value, info.type)
    inner = [body for node in graph for body in subgraphs(node)]
    if inner:
        bodies = [body for node in proto.node for body in subgraphs_of(node)]
        for body, other in zip(inner, bodies, strict=True):
            _read_back(body, other, interface)


def _own_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values that `graph` itself declares, by name."""
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values.extend(node.outputs)
    return {value.name: value for value in values if value.name}


def _is_settled(value: ir.Value) -> bool:
    return value.type is not None and static_shape(value) is not None


def forget_shapes(graph: ir.Graph) -> None:
    """Drops what is recorded of intermediate values in `graph`: a pass has changed dimensions."""
    interface = {*graph.inputs, *graph.outputs}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value not in interface:
                value.shape = None


def _merge(value: ir.Value, stated: onnx.TypeProto) -> None:
    try:
        if value.type is None:
            value.type = ir.serde.deserialize_type_proto_for_type(stated)
        shape = ir.serde.deserialize_type_proto_for_shape(stated)
    except ir.serde.SerdeError:
        return  # a map, for which onnx_ir has no type
    if shape is None:
        return
    if value.shape is None:
        value.shape = shape.copy()
        return
    if len(value.shape) != len(shape):
        return
    merged = [
        new if _unknown(old) or (not isinstance(old, int) and isinstance(new, int)) else old
        for old, new in zip(value.shape, shape, strict=True)
    ]
    value.shape = ir.Shape(merged)


def _unknown(dim: int | ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and dim.value is None
