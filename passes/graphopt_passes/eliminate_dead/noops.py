"""Nodes that hand on their input as it is."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import constant_array, infer_shapes, is_standard, take_over


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


def bypass_noops(
    graph: ir.Graph | ir.Function, opset: int | None, types: Types, replaced: frozenset[str]
) -> Counter[str]:
    """Lets the users of each no-op in `graph` and its subgraphs use the no-op's input instead.

    The no-ops stay, without uses. One between a graph's input and its output has to remain.

    Args:
        opset: the version of the default domain; None if unknown.
        replaced: operators of the default domain that a function of the model replaces.

    Returns:
        How many of each kind there were, as names of rewrites.
    """
    bypassed: Counter[str] = Counter()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.op_type in replaced or not is_noop(node, opset, types):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None or not (result.uses() or result.is_graph_output()):
            continue
        recorded = result.shape
        if take_over(result, source):
            if source.shape is None and recorded is not None and source.producer() is not None:
                source.shape = recorded
            bypassed[f"noop-{node.op_type.lower()}"] += 1
    return bypassed


def is_noop(node: ir.Node, opset: int | None, types: Types) -> bool:
    """Whether the first output of `node` equals its first input, and no other one is used."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    if is_standard(node, "Identity"):
        return True
    if is_standard(node, "Dropout"):
        return opset is not None and _is_inference(node, opset)
    if is_standard(node, "Cast"):
        to = node.attributes.get("to")
        if to is None or to.is_ref() or to.type != ir.AttributeType.INT:
            return False  # opset 1 to 5 spell the type out
        return types.of(node.inputs[0]) == to.as_int()
    if is_standard(node, "CastLike"):
        dtype = types.of(node.inputs[0])
        return dtype is not None and dtype == types.of(node.inputs[1])
    return False


def _is_inference(node: ir.Node, opset: int) -> bool:
    """Whether a Dropout drops nothing, whatever it is fed.

    Up to opset 6 an attribute says so, by default it does drop; from 7 to 11 it never does; from 12
    an input tells, which if left out means no.
    """
    if opset < 7:
        test = node.attributes.get("is_test")
        return test is not None and not test.is_ref() and test.as_int() != 0
    if opset < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = constant_array(node.inputs[2])
    return training is not None and not training.any()
