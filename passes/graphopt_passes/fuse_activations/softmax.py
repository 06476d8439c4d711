"""Softmax and LogSoftmax, which take the maximum away first so that nothing overflows."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, require_private
from graphopt_passes.fuse_activations.algebra import TOLERANCE, require

OVERFLOW = "exp(x) overflows for large x, where {} does not: no maximum is taken away before"


def softmax(node: ir.Node, at: Rewriter) -> bool:
    """exp(x - max) / sum(exp(x - max)) becomes Softmax."""
    power = at.producer(node.inputs[0], "Exp")
    if power is None:
        return False
    total = _divisor(node, at)
    if total is None or total.inputs[0] is not power.outputs[0]:
        return False
    return _fuse(node, power.inputs[0], total, "Softmax", at)


def _divisor(node: ir.Node, at: Rewriter) -> ir.Node | None:
    """The sum that the first input of `node` is divided by."""
    below = node.inputs[1]
    if node.op_type == "Mul":
        inverse = at.producer(below, "Reciprocal")
        below = None if inverse is None else inverse.inputs[0]
    return at.producer(below, "ReduceSum")


def log_softmax(node: ir.Node, at: Rewriter) -> bool:
    """d - log(sum(exp(d))), where d = x - max, becomes LogSoftmax."""
    log = at.producer(node.inputs[1], "Log")
    total = None if log is None else at.producer(log.inputs[0], "ReduceSum")
    power = None if total is None else at.producer(total.inputs[0], "Exp")
    if total is None or power is None or power.inputs[0] is not node.inputs[0]:
        return False
    return _fuse(node, power.inputs[0], total, "LogSoftmax", at)


def log_of_softmax(node: ir.Node, at: Rewriter) -> bool:
    """Log of Softmax is no LogSoftmax, though it is meant to be one."""
    if at.before(node, 0, "Softmax") is not None:
        raise DeclinedError("Log(Softmax) is -inf where the Softmax is 0, and LogSoftmax is not")
    return False


def _fuse(
    node: ir.Node, exponent: ir.Value | None, total: ir.Node, op_type: str, at: Rewriter
) -> bool:
    """Turns `node` into `op_type` of x if `exponent` is x less its maximum."""
    axis = _axis(total, 13, at)
    if axis is None or at.opset < 7 or at.dtype(exponent) not in TOLERANCE:
        return False
    difference = at.producer(exponent, "Sub")
    greatest = None if difference is None else at.producer(difference.inputs[1], "ReduceMax")
    if difference is None or greatest is None or greatest.inputs[0] is not difference.inputs[0]:
        raise DeclinedError(OVERFLOW.format(op_type))
    x = difference.inputs[0]
    if x is None or _axis(greatest, 18, at) != axis:
        return False
    rank = at.rank(x)
    if at.opset < 13 and (rank is None or axis != rank - 1):
        raise DeclinedError(f"before opset 13, {op_type} is over all axes from its own on")
    require(at, op_type, 1, x)
    require_private(node, [x])
    at.become(node, op_type, [x], {"axis": axis})
    return True


def _axis(node: ir.Node, since: int, at: Rewriter) -> int | None:
    """The one axis, from 0 on, that `node` reduces and keeps; in opset `since` it became an
    input."""
    if not node.attributes.get_int("keepdims", 1):
        return None
    if at.opset < since:
        axes = list(node.attributes.get_ints("axes", ()))
    else:
        axes = (at.facts[node.inputs[1]].ints() if len(node.inputs) > 1 else None) or []
    rank = at.rank(node.inputs[0])
    if len(axes) != 1 or rank is None or not -rank <= axes[0] < rank:
        return None
    return int(axes[0]) % rank
