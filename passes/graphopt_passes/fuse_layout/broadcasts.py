"""Expand and Tile ahead of operators that broadcast by themselves."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.ir.facts.shape_rules import broadcast
from graphopt.rewriting import Rewriter, Rule

# All inputs are broadcast to one shape, since opset 8.
_BROADCASTING = (
    *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow"),
    *("Sub", "Sum", "Where", "Xor"),
)


def _broadcast_by_itself(node: ir.Node, at: Rewriter) -> bool:
    """An input of a broadcasting operator, without the Expand or Tile that repeats it."""
    if at.opset < 8:
        return False
    for index, value in enumerate(node.inputs):
        found = at.producer(value, "Expand", "Tile")
        if found is None or not _repeats(found, at):
            continue
        if _gives(node, at, index, at.dims(found.inputs[0])):
            at.set_input(node, index, found.inputs[0])
            return True
    return False


def _gathered_by_itself(node: ir.Node, at: Rewriter) -> bool:
    """The same where a Gather looks the repeated indices up: in a table of embeddings, say."""
    if at.opset < 8:
        return False
    for index in range(len(node.inputs)):
        gather = at.before(node, index, "Gather")
        found = None if gather is None else at.before(gather, 1, "Expand", "Tile")
        if gather is None or found is None or not _repeats(found, at):
            continue
        table, indices = at.dims(gather.inputs[0]), at.dims(found.inputs[0])
        axis: int = gather.attributes.get_int("axis", 0)
        if table is None or indices is None or not -len(table) <= axis < len(table):
            continue
        axis %= len(table)
        if _gives(node, at, index, (*table[:axis], *indices, *table[axis + 1 :])):
            smaller = at.insert(
                gather, "Gather", [gather.inputs[0], found.inputs[0]], {"axis": axis}
            )
            at.set_input(node, index, smaller)
            return True
    return False


def _repeats(node: ir.Node, at: Rewriter) -> bool:
    """Whether `node` repeats its input along axes of size one, and does nothing else."""
    if node.op_type == "Expand":
        return True
    small, large = at.dims(node.inputs[0]), at.dims(node.outputs[0])
    if small is None or large is None or len(small) != len(large):
        return False
    return at.opset >= 6 and all(a in (1, b) for a, b in zip(small, large, strict=True))


def _gives(node: ir.Node, at: Rewriter, index: int, dims: Dims | None) -> bool:
    """Whether `node` surely gives the same shape if its input `index` had `dims`."""
    result = at.dims(node.outputs[0])
    if dims is None or result is None:
        return False
    shapes = [at.dims(value) for value in node.inputs]
    return broadcast([*shapes[:index], dims, *shapes[index + 1 :]]) == result


RULES = (
    Rule("expand-before-broadcast", _BROADCASTING, _broadcast_by_itself),
    Rule("expand-before-gather", _BROADCASTING, _gathered_by_itself),
)
