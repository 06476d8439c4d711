"""Operators that copy, or convert what need not be converted."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt_passes.eliminate_noops.handing import noops
from graphopt_passes.eliminate_noops.neutral import is_filled


def _identity(node: ir.Node, at: Rewriter) -> ir.Value | None:
    return node.inputs[0]


def _dropout(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Up to opset 6 an attribute says whether it drops anything, and by default it does; from 7 to
    11 it never does; from 12 an input tells, which if left out means no."""
    if at.opset < 7:
        return node.inputs[0] if node.attributes.get_int("is_test", 0) else None
    if at.opset < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return node.inputs[0]
    return node.inputs[0] if is_filled(node.inputs[2], 0, at) else None


def _cast(node: ir.Node, at: Rewriter) -> ir.Value | None:
    to = node.attributes.get("to")
    if to is None or to.type != ir.AttributeType.INT:
        return None  # opsets 1 to 5 spell the type out
    return node.inputs[0] if at.dtype(node.inputs[0]) == to.as_int() else None


def _cast_like(node: ir.Node, at: Rewriter) -> ir.Value | None:
    dtype = at.dtype(node.inputs[0])
    return node.inputs[0] if dtype is not None and dtype == at.dtype(node.inputs[1]) else None


def _sequence_at(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """An element of a sequence that is made of known ones."""
    made = at.producer(node.inputs[0], "SequenceConstruct")
    index = at.scalar(node.inputs[1])
    if made is None or index is None or not -len(made.inputs) <= index < len(made.inputs):
        return None
    return made.inputs[int(index)]


def _optional_element(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """What an Optional was made of; from opset 18, a tensor that is no optional is its own."""
    made = at.producer(node.inputs[0], "Optional")
    if made is not None:
        return made.inputs[0] if made.inputs else None
    value = node.inputs[0]
    return value if value is not None and isinstance(value.type, ir.TensorType) else None


RULES = (
    *noops(_identity, "Identity"),
    *noops(_dropout, "Dropout"),
    *noops(_cast, "Cast"),
    *noops(_cast_like, "CastLike"),
    *noops(_sequence_at, "SequenceAt"),
    *noops(_optional_element, "OptionalGetElement"),
)
