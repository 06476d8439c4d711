"""Sigmoid, Swish, Mish, Softplus and Softsign."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, require_private
from graphopt_passes.fuse_activations.algebra import (
    TOLERANCE,
    affine,
    number,
    reaching,
    require,
    require_attribute,
    step,
)

# From here on log(1 + exp(x)) and x are one number in float32 and in 16-bit types.
LINEAR_FROM = 15.0

MAGNIFIERS = ("Log", "Reciprocal", "Div")


def sigmoid(node: ir.Node, at: Rewriter) -> bool:
    """1 / (1 + exp(-x)) becomes Sigmoid."""
    if node.op_type == "Div" and (at.opset < 7 or not at.is_number(node.inputs[0], 1.0)):
        return False
    x = _negated(_exponent(node.inputs[-1], at), at)
    if x is None or (node.op_type == "Div" and not at.keeps_shape(node.inputs[0], x)):
        return False
    require(at, "Sigmoid", 6, x)
    if any(at.is_op(use.node, *MAGNIFIERS) for use in node.outputs[0].uses()):
        raise DeclinedError("what follows magnifies numbers near 0, where a Sigmoid is less exact")
    require_private(node, [x])
    at.become(node, "Sigmoid", [x])
    return True


def _exponent(value: ir.Value | None, at: Rewriter) -> ir.Value | None:
    """y if `value` is 1 + exp(y)."""
    node = at.producer(value, "Add")
    more = None if node is None else step(node, at)
    power = None if more is None or more.shift != 1.0 else at.producer(more.value, "Exp")
    return None if power is None or at.dtype(value) not in TOLERANCE else power.inputs[0]


def _negated(value: ir.Value | None, at: Rewriter) -> ir.Value | None:
    """x if `value` is -x."""
    node = at.producer(value, "Neg", "Mul", "Div", "Sub")
    more = None if node is None else step(node, at)
    return more.value if more is not None and (more.scale, more.shift) == (-1.0, 0.0) else None


def _products(node: ir.Node, gate: str, at: Rewriter) -> list[tuple[ir.Value, ir.Node]]:
    """The ways to read `node`, a Mul, as x times a node of type `gate`."""
    ways = ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0]))
    found = [(x, at.producer(other, gate)) for x, other in ways if at.opset >= 7]
    return [(x, other) for x, other in found if x is not None and other is not None]


def swish(node: ir.Node, at: Rewriter) -> bool:
    """x * sigmoid(alpha * x) becomes Swish."""
    for x, gate in _products(node, "Sigmoid", at):
        if gate.inputs[0] is None or at.dtype(x) not in TOLERANCE:
            continue
        inside = affine(gate.inputs[0], at, reaching(x))
        if inside.value is not x or inside.shift != 0.0:
            continue
        require(at, "Swish", 24, x)
        require_attribute(inside.scale, x, at)
        if at.opset > 24:
            raise DeclinedError("ONNX Runtime runs Swish in models of opset 24 only")
        require_private(node, [x])
        at.become(node, "Swish", [x], {"alpha": inside.scale} if inside.scale != 1.0 else {})
        return True
    return False


def mish(node: ir.Node, at: Rewriter) -> bool:
    """x * tanh(softplus(x)) becomes Mish.

    Also with log(1 + exp(x)) for the softplus: where that overflows, tanh is 1 anyway.
    """
    for x, gate in _products(node, "Tanh", at):
        if _softplus_argument(gate.inputs[0], at) is not x or at.dtype(x) not in TOLERANCE:
            continue
        require(at, "Mish", 18, x)
        require_private(node, [x])
        at.become(node, "Mish", [x])
        return True
    return False


def _softplus_argument(value: ir.Value | None, at: Rewriter) -> ir.Value | None:
    node = at.producer(value, "Softplus", "Log")
    if node is None:
        return None
    return node.inputs[0] if node.op_type == "Softplus" else _exponent(node.inputs[0], at)


def softplus(node: ir.Node, at: Rewriter) -> bool:
    """max(x, 0) + log(1 + exp(-|x|)) becomes Softplus."""
    for index in (0, 1):
        relu = at.producer(node.inputs[index], "Relu")
        log = None if relu is None else at.producer(node.inputs[1 - index], "Log")
        if relu is None or log is None:
            continue
        x, size = relu.inputs[0], at.producer(_negated(_exponent(log.inputs[0], at), at), "Abs")
        if x is None or size is None or size.inputs[0] is not x:
            continue
        require(at, "Softplus", 1, x)
        require_private(node, [x])
        at.become(node, "Softplus", [x])
        return True
    return False


def overflowing_softplus(node: ir.Node, at: Rewriter) -> bool:
    """log(1 + exp(x)) is no Softplus, though it is meant to be one."""
    exponent = _exponent(node.inputs[0], at)
    if exponent is None or at.after(node, "Tanh") is not None:
        return False
    if at.producer(_negated(exponent, at), "Abs") is None:
        raise DeclinedError("exp(x) overflows for large x, where Softplus does not")
    return False


def softplus_with_threshold(node: ir.Node, at: Rewriter) -> bool:
    """Softplus(x), but x itself where that is greater than 20, becomes Softplus, as it is defined
    by PyTorch."""
    above, soft = at.producer(node.inputs[0], "Greater"), at.producer(node.inputs[2], "Softplus")
    x = node.inputs[1]
    if above is None or soft is None or x is None:
        return False
    threshold = number(above, 1, at)
    if above.inputs[0] is not x or soft.inputs[0] is not x or at.dtype(x) not in TOLERANCE:
        return False
    if threshold is None or threshold < LINEAR_FROM or at.dtype(x) == ir.DataType.DOUBLE:
        return False
    require_private(node, [x])
    at.become(node, "Softplus", [x])
    return True


def softsign(node: ir.Node, at: Rewriter) -> bool:
    """x / (1 + |x|) becomes Softsign."""
    x, below = node.inputs[0], at.producer(node.inputs[1], "Add")
    more = None if below is None else step(below, at)
    size = None if more is None or more.shift != 1.0 else at.producer(more.value, "Abs")
    if x is None or size is None or size.inputs[0] is not x or at.dtype(x) not in TOLERANCE:
        return False
    require(at, "Softsign", 1, x)
    require_private(node, [x])
    at.become(node, "Softsign", [x])
    return True
