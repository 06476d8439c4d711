"""The rules by operator, and the operators that nothing flows back through."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from graphopt.gradients import convolutions, layout, linear, norms, pointwise, reductions
from graphopt.gradients.call import Rule
from graphopt.ir import is_standard

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **layout.RULES,
    **linear.RULES,
    **convolutions.RULES,
    **norms.RULES,
    **reductions.RULES,
}

FLAT = frozenset(
    {
        *("And", "ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor"),
        *("Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero", "Not"),
        *("Or", "Range", "Round", "Shape", "Sign", "Size", "Xor"),
    }
)
"""Their outputs do not change with their floating-point inputs, or only in steps."""

_FIRST = {"BatchNormalization": 3, "CastLike": 1, "Dropout": 1, "Pad": 1}
"""Operators whose rules only know the gradient at the first so many inputs."""


def is_flat(node: ir.Node) -> bool:
    """Whether nothing flows back through `node`."""
    if is_standard(node, "Cast"):
        kind = node.attributes.get_int("to", 0)
        return not ir.DataType(kind).is_floating_point()
    return is_standard(node, *FLAT)


def rule_of(node: ir.Node) -> Rule | None:
    """The rule of `node`, or None if there is none for it as it is."""
    if not is_standard(node, node.op_type) or any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for attribute in node.attributes.values()
    ):
        return None
    declines = _DECLINES.get(node.op_type)
    return None if declines is not None and declines(node) else RULES.get(node.op_type)


def is_known(node: ir.Node, index: int) -> bool:
    """Whether the rule of `node` knows the gradient at input `index`."""
    return index < _FIRST.get(node.op_type, index + 1)


def _mode(node: ir.Node, name: str, default: str) -> str:
    return node.attributes.get_string(name, default) or default


_DECLINES: dict[str, Callable[[ir.Node], bool]] = {
    "BatchNormalization": lambda node: node.attributes.get_int("training_mode", 0) != 0,
    "Dropout": lambda node: len(node.inputs) > 2 and node.inputs[2] is not None,
    "Pad": lambda node: _mode(node, "mode", "constant") != "constant",
    "ScatterElements": lambda node: _mode(node, "reduction", "none") != "none",
    "GatherND": lambda node: node.attributes.get_int("batch_dims", 0) != 0,
    "Einsum": lambda node: not linear.is_plain_einsum(node),
}
