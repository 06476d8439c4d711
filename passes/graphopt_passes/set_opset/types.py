"""The element types of values that no fact tells."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import infer_shapes


class Types:
    """The element types of a model's values.

    Those that the file records are right, since no runtime loads a model with wrong ones; where one
    is missing, all are inferred, once.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[ir.Value, ir.DataType] | None = None

    def of(self, value: ir.Value | None) -> ir.DataType | None:
        """The element type of a tensor; None if it is not known, or `value` is no tensor."""
        if value is None:
            return None
        if value.const_value is not None and not value.is_graph_input():
            return value.const_value.dtype
        if value.type is not None:
            return value.dtype if isinstance(value.type, ir.TensorType) else None
        if self._inferred is None:
            self._inferred = _infer_types(self._model)
        return self._inferred.get(value)


def _infer_types(model: ir.Model) -> dict[ir.Value, ir.DataType]:
    """The types of the tensors in all graphs; the model is not changed."""
    typed = model.clone()
    try:
        infer_shapes(typed)
    except GraphoptError:
        return {}  # no types, no rewrites: a model that contradicts itself is left as it is
    found: dict[ir.Value, ir.DataType] = {}
    originals = ir.traversal.RecursiveGraphIterator(model.graph)
    copies = ir.traversal.RecursiveGraphIterator(typed.graph)
    for node, copy in zip(originals, copies, strict=True):
        for value, other in zip(node.outputs, copy.outputs, strict=True):
            if isinstance(other.type, ir.TensorType):
                found[value] = other.type.dtype
    return found
