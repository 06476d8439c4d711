"""Shape inference: onnx's own, with the weights left out."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.checking import skeleton_of_model

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
    for graph, other in zip(model.graphs(), ir.from_proto(inferred).graphs(), strict=True):
        interface = {*model.graph.inputs, *model.graph.outputs}
        known = ir.convenience.create_value_mapping(graph)
        for name, source in ir.convenience.create_value_mapping(other).items():
            value = known.get(name)
            if value is not None and value not in interface:
                _merge(value, source)


def forget_shapes(graph: ir.Graph) -> None:
    """Drops what is recorded of intermediate values in `graph`: a pass has changed dimensions."""
    interface = {*graph.inputs, *graph.outputs}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value not in interface:
                value.shape = None


def _merge(value: ir.Value, source: ir.Value) -> None:
    if value.type is None:
        value.type = source.type
    if source.shape is None:
        return
    if value.shape is None:
        value.shape = source.shape.copy()
        return
    if len(value.shape) != len(source.shape):
        return
    merged = [
        new if _unknown(old) or (not isinstance(old, int) and isinstance(new, int)) else old
        for old, new in zip(value.shape, source.shape, strict=True)
    ]
    value.shape = ir.Shape(merged)


def _unknown(dim: int | ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and dim.value is None
