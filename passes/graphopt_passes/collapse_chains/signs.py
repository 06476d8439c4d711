"""Chains of operators that undo, repeat or take in one another: Not, Neg, Abs, rounding."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import bypass

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.UINT8, ir.DataType.BOOL)
_WHOLE = ("Ceil", "Floor", "Round")
# What changes nothing of what the named operators give.
_IDLE_AFTER = {
    "Abs": ("Abs",),
    "Ceil": _WHOLE,
    "Floor": _WHOLE,
    "Relu": ("Relu",),
    "Round": _WHOLE,
    "Sign": ("Sign",),
}
# With a negated second operand: what it is otherwise.
_OPPOSITE = {"Add": "Sub", "Sub": "Add"}


def _undone(node: ir.Node, at: Rewriter) -> bool:
    """Not of Not, Neg of Neg -> the original."""
    found = at.producer(node.inputs[0], node.op_type)
    return found is not None and bypass(node, at, found.inputs[0])


def _repeated(node: ir.Node, at: Rewriter) -> bool:
    """Abs of Abs, Floor of Ceil and the like -> the first of the two."""
    found = at.producer(node.inputs[0], *_IDLE_AFTER[node.op_type])
    return found is not None and bypass(node, at, found.outputs[0])


def _abs_of_neg(node: ir.Node, at: Rewriter) -> bool:
    found = at.before(node, 0, "Neg")
    if found is None:
        return False
    at.become(node, "Abs", [found.inputs[0]])
    return True


def _where_not(node: ir.Node, at: Rewriter) -> bool:
    """Where(Not(c), a, b) -> Where(c, b, a).

    ONNX Runtime's Where gives 0 for a chosen -0 if it comes from the one side and not the other.
    """
    found = at.before(node, 0, "Not")
    dtype = at.dtype(node.outputs[0])
    if found is None or dtype is None:
        return False
    if dtype in _FLOATS:
        raise DeclinedError("Where does not treat -0 the same on both sides")
    if dtype not in _INTEGERS:
        return False
    at.become(node, "Where", [found.inputs[0], node.inputs[2], node.inputs[1]])
    return True


def _sum_with_neg(node: ir.Node, at: Rewriter) -> bool:
    """a + -b -> a - b; a - -b -> a + b; -a + b -> b - a."""
    if at.opset < 7 or len(node.inputs) != 2 or at.dtype(node.outputs[0]) not in _FLOATS:
        return False
    for index in (1, 0) if node.op_type == "Add" else (1,):
        found = at.before(node, index, "Neg")
        if found is not None and at.has_operator(_OPPOSITE[node.op_type], 7):
            inputs = [node.inputs[1 - index], found.inputs[0]]
            at.become(node, _OPPOSITE[node.op_type], inputs)
            return True
    return False


def _product_of_negs(node: ir.Node, at: Rewriter) -> bool:
    """-a * -b -> a * b; -a / -b -> a / b."""
    if at.opset < 7 or len(node.inputs) != 2 or at.dtype(node.outputs[0]) not in _FLOATS:
        return False
    one, two = (at.before(node, index, "Neg") for index in (0, 1))
    if one is None or two is None:
        return False
    at.become(node, node.op_type, [one.inputs[0], two.inputs[0]])
    return True


RULES = (
    Rule("double-negation", ("Neg", "Not"), _undone),
    Rule("repeated-operator", tuple(_IDLE_AFTER), _repeated),
    Rule("abs-of-neg", ("Abs",), _abs_of_neg, ("Neg",)),
    Rule("where-of-not", ("Where",), _where_not, ("Not",)),
    Rule("sum-with-neg", ("Add", "Sub"), _sum_with_neg, ("Neg",)),
    Rule("product-of-negs", ("Mul", "Div"), _product_of_negs, ("Neg",)),
)
