"""What operators that broadcast by themselves make superfluous: repeating, pairs of Reshapes."""

from __future__ import annotations

import numpy as np
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

_REPEATING = ("Expand", "Resize", "Tile")

_BINARY = ("Add", "And", "Div", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Xor")


def _broadcast_by_itself(node: ir.Node, at: Rewriter) -> bool:
    """An input of a broadcasting operator, without the operator that repeats it."""
    if at.opset < 8:
        return False
    for index, value in enumerate(node.inputs):
        found = at.producer(value, *_REPEATING)
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
        found = None if gather is None else at.before(gather, 1, *_REPEATING)
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
    if node.op_type == "Resize" and not _is_nearest(node, at):
        return False
    small, large = at.dims(node.inputs[0]), at.dims(node.outputs[0])
    if small is None or large is None or len(small) != len(large):
        return False
    return at.opset >= 6 and all(a in (1, b) for a, b in zip(small, large, strict=True))


def _is_nearest(node: ir.Node, at: Rewriter) -> bool:
    """Whether a Resize copies elements, each from the place below it, by whole scales.

    By 1.2, 4 elements become as many, but not the same.
    """
    mode = node.attributes.get_string("mode", "nearest")
    places = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if (mode, places, rounding) != ("nearest", "asymmetric", "floor"):
        return False
    if len(node.inputs) == 4 and node.inputs[3] is not None:  # sizes, of which scales are made
        return node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    scales = at.small(node.inputs[2]) if len(node.inputs) > 2 else None
    return scales is not None and bool((scales == np.rint(scales)).all())


def _gives(node: ir.Node, at: Rewriter, index: int, dims: Dims | None) -> bool:
    """Whether `node` surely gives the same shape if its input `index` had `dims`."""
    result = at.dims(node.outputs[0])
    if dims is None or result is None:
        return False
    shapes = [at.dims(value) for value in node.inputs]
    return broadcast([*shapes[:index], dims, *shapes[index + 1 :]]) == result


def _binary_between_reshapes(node: ir.Node, at: Rewriter) -> bool:
    """Axes of size 1 added, an operator with a constant, and the axes dropped again."""
    binary = at.before(node, 0, *_BINARY)
    if binary is None or len(binary.inputs) != 2 or at.opset < 8:
        return False
    index = 0 if at.is_constant(binary.inputs[1]) else 1
    constant = binary.inputs[1 - index]
    first = at.before(binary, index, "Reshape", "Unsqueeze")
    if first is None or not at.is_constant(constant):
        return False
    outer, inner = at.dims(first.inputs[0]), at.dims(first.outputs[0])
    if outer is None or inner is None or at.dims(node.outputs[0]) != outer:
        return False
    added = None if at.dims(binary.outputs[0]) != inner else _added(outer, inner)
    shape = None if added is None else _without(at.dims(constant) or (), added, len(inner))
    if shape is None:
        return False
    array = at.array(constant)
    if array is None or constant is None:
        return False
    moved = at.constant(array.reshape(shape), str(constant.name), node)
    inputs = [first.inputs[0], moved]
    at.become(node, binary.op_type, inputs if index == 0 else inputs[::-1])
    return True


def _added(outer: Dims, inner: Dims) -> set[int] | None:
    """The axes of size 1 that `inner` has besides those of `outer`; None if it is not so."""
    added: set[int] = set()
    for axis, dim in enumerate(inner):
        at_outer = axis - len(added)
        if at_outer < len(outer) and outer[at_outer] == dim:
            continue
        if dim != 1:
            return None
        added.add(axis)
    return added if added and len(inner) - len(added) == len(outer) else None


def _without(dims: Dims, axes: set[int], rank: int) -> list[int] | None:
    """The shape of a constant that is broadcast to `rank`, without `axes`, where it must be 1."""
    missing = rank - len(dims)
    if any(axis >= missing and dims[axis - missing] != 1 for axis in axes):
        return None
    rest = [dim for axis, dim in enumerate(dims, missing) if axis not in axes]
    return [dim for dim in rest if isinstance(dim, int)]


RULES = (
    Rule("expand-before-broadcast", _BROADCASTING, _broadcast_by_itself, _REPEATING),
    Rule("expand-before-gather", _BROADCASTING, _gathered_by_itself, _REPEATING),
    Rule("binary-between-reshapes", ("Reshape", "Squeeze"), _binary_between_reshapes),
)
