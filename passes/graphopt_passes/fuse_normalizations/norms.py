"""Sums of squares and of absolute values, and their roots."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, require_private

_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""In 16-bit types a square soon overflows, and in the middle of an operator it does not."""


def reduce_of_elements(node: ir.Node, at: Rewriter) -> bool:
    """The sum of x * x becomes ReduceSumSquare, that of |x| ReduceL1."""
    inside = at.producer(node.inputs[0], "Mul", "Pow", "Abs")
    if inside is None or inside.inputs[0] is None or at.dtype(node.inputs[0]) not in _TYPES:
        return False
    x = inside.inputs[0]
    if inside.op_type == "Mul" and inside.inputs[1] is not x:
        return False
    if inside.op_type == "Pow" and not (
        at.is_number(inside.inputs[1], 2.0) and at.keeps_shape(inside.inputs[1], x)
    ):
        return False
    if inside.op_type != "Abs" and _is_taken_from(node, at):
        raise DeclinedError("what is taken away from the sum of squares would magnify its rounding")
    return _reduce(node, "ReduceL1" if inside.op_type == "Abs" else "ReduceSumSquare", x, at)


def _is_taken_from(node: ir.Node, at: Rewriter) -> bool:
    """Whether a difference is made of the sum `node`, or of its quotient, as in the variance
    mean(x^2) - mean(x)^2.

    Both terms of it round alike, as long as a runtime sums them alike; ReduceSumSquare has a kernel
    of its own.
    """
    follower = at.after(node, "Mul", "Div")
    ends = (node.outputs[0], *(() if follower is None else (follower.outputs[0],)))
    return any(at.is_op(use.node, "Sub") for value in ends for use in value.uses())


def _reduce(node: ir.Node, op_type: str, x: ir.Value, at: Rewriter) -> bool:
    """Turns `node`, a ReduceSum, into another reduction of `x`, whose axes were an attribute until
    opset 18."""
    attributes: dict[str, Any] = {name: a.value for name, a in node.attributes.items()}
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    inputs = [x] if axes is None else [x, axes]
    if 13 <= at.opset < 18:
        known = [] if axes is None else at.facts[axes].ints()
        if known is None or (not known and attributes.get("noop_with_empty_axes")):
            return False
        attributes.pop("noop_with_empty_axes", None)
        attributes, inputs = {**attributes, **({"axes": known} if known else {})}, [x]
    elif attributes.get("noop_with_empty_axes") and not (at.facts[axes].ints() or []):
        return False
    at.require_operator(op_type, 1, at.dtype(x))
    require_private(node, [x, *([] if axes is None else [axes])])
    at.become(node, op_type, inputs, attributes)
    return True


def root_of_squares(node: ir.Node, at: Rewriter) -> bool:
    """The square root of ReduceSumSquare becomes ReduceL2."""
    total = at.before(node, 0, "ReduceSumSquare")
    if total is None or at.dtype(node.outputs[0]) not in _TYPES:
        return False
    at.require_operator("ReduceL2", 1, at.dtype(node.outputs[0]))
    attributes = {name: attribute.value for name, attribute in total.attributes.items()}
    at.become(node, "ReduceL2", list(total.inputs), attributes)
    return True


def lp_normalization(node: ir.Node, at: Rewriter) -> bool:
    """x / ReduceL2(x) is no LpNormalization, though it is meant to be one."""
    below = at.producer(node.inputs[1], "ReduceL2", "Clip", "Max", "Expand")
    for _ in range(2):
        if below is not None and below.op_type != "ReduceL2":
            below = at.producer(below.inputs[0], "ReduceL2", "Clip", "Max")
    if below is not None and below.op_type == "ReduceL2" and below.inputs[0] is node.inputs[0]:
        raise DeclinedError("LpNormalization knows no least norm, and gives 0 where the norm is 0")
    return False
