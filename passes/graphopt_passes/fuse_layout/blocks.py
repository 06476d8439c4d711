"""Reshape, Transpose, Reshape: what moves blocks between channels and space, and what is less."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.ir.facts import Dim, Dims, product
from graphopt.rewriting import DeclinedError, Rewriter, Rule

# Runtimes have DepthToSpace and SpaceToDepth for these.
_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)

# The axes of the first Reshape's result in the order after the Transpose, by ONNX's definition.
_DEPTH_COLUMN_ROW = (0, 3, 4, 1, 5, 2)
_COLUMN_ROW_DEPTH = (0, 1, 4, 2, 5, 3)
_SPACE_TO_DEPTH = (0, 3, 5, 1, 2, 4)


def _sandwich(
    node: ir.Node, at: Rewriter
) -> tuple[ir.Value, Dims, Dims, tuple[int, ...], Dims] | None:
    """Of a Reshape of a Transpose of a Reshape: its source, and the dimensions on the way.

    The dimensions of the source, after the first Reshape, the permutation, and of the result.
    """
    transpose = at.before(node, 0, "Transpose")
    first = None if transpose is None else at.before(transpose, 0, "Reshape", "Unsqueeze")
    if first is None or transpose is None or first.inputs[0] is None:
        return None
    source, middle = at.dims(first.inputs[0]), at.dims(first.outputs[0])
    result = at.dims(node.outputs[0])
    if source is None or middle is None or result is None:
        return None
    order = transpose.attributes.get_ints("perm", tuple(reversed(range(len(middle)))))
    return first.inputs[0], source, middle, tuple(order), result


def _depth_to_space(node: ir.Node, at: Rewriter) -> bool:
    found = _sandwich(node, at)
    if found is None or len(found[1]) != 4 or len(found[2]) != 6 or len(found[4]) != 4:
        return False
    value, (batch, depth, height, width), middle, order, result = found
    for mode, pattern in (("DCR", _DEPTH_COLUMN_ROW), ("CRD", _COLUMN_ROW_DEPTH)):
        block, left = (middle[1], middle[3]) if mode == "DCR" else (middle[2], middle[1])
        if not isinstance(block, int) or block < 2 or not _same_order(order, pattern, middle):
            continue
        small = (left,) if mode == "CRD" else ()
        large = (left,) if mode == "DCR" else ()
        if middle != (batch, *small, block, block, *large, height, width):
            continue
        wanted = (batch, left, product((height, block)), product((width, block)))
        if result == wanted and depth == product((left, block, block)):
            return _become(node, at, "DepthToSpace", value, block, mode)
    return False


def _space_to_depth(node: ir.Node, at: Rewriter) -> bool:
    found = _sandwich(node, at)
    if found is None or len(found[1]) != 4 or len(found[2]) != 6 or len(found[4]) != 4:
        return False
    value, (batch, depth, height, width), middle, order, result = found
    rows, block, columns, other = middle[2:]
    if not isinstance(block, int) or block < 2 or other != block:
        return False
    if middle[:2] != (batch, depth) or result != (
        *(batch, product((depth, block, block))),
        *(rows, columns),
    ):
        return False
    if product((rows, block)) != height or product((columns, block)) != width:
        return False
    if _same_order(order, (0, 1, 3, 5, 2, 4), middle) and depth != 1:
        raise DeclinedError("the channels come before the block, in SpaceToDepth after it")
    if not _same_order(order, _SPACE_TO_DEPTH, middle):
        return False
    return _become(node, at, "SpaceToDepth", value, block)


def _same_order(order: Sequence[int], pattern: Sequence[int], dims: Dims) -> bool:
    """Whether two permutations of `dims` move the data alike: axes of size 1 do not count."""
    return [a for a in order if dims[a] != 1] == [a for a in pattern if dims[a] != 1]


def _become(
    node: ir.Node, at: Rewriter, op_type: str, value: ir.Value, block: int, mode: str = "DCR"
) -> bool:
    if at.dtype(value) not in _DTYPES:
        raise DeclinedError(f"runtimes have {op_type} for floating-point numbers only")
    if not at.has_operator(op_type, 1 if mode == "DCR" else 11):
        raise DeclinedError(f"opset {at.opset}, or the target, has no {op_type} of mode {mode}")
    attributes: dict[str, int | str] = {"blocksize": block}
    at.become(node, op_type, [value], attributes | ({"mode": mode} if mode != "DCR" else {}))
    return True


def _transpose_of_merged_axes(node: ir.Node, at: Rewriter) -> bool:
    """Merging axes, a Transpose, and taking the axes apart again -> a Transpose of more axes."""
    found = _sandwich(node, at)
    if found is None:
        return False
    value, source, middle, order, result = found
    groups = _groups(source, middle)
    if groups is None or not at.has_operator("Transpose", 1):
        return False
    axes = [axis for group in order for axis in groups[group]]
    if tuple(source[axis] for axis in axes) != result:
        return False
    at.become(node, "Transpose", [value], {"perm": axes})
    return True


def _groups(source: Dims, merged: Dims) -> list[list[int]] | None:
    """Which axes of `source` each axis of `merged` is made of; None if it does more than merge."""
    groups: list[list[int]] = []
    axis = 0
    for position, dim in enumerate(merged):
        group: list[int] = []
        size: Dim = 1
        last = position == len(merged) - 1
        while axis < len(source) and (not group or size != dim or last):
            group.append(axis)
            size = product((size, source[axis]))
            axis += 1
        if size != dim:
            return None
        groups.append(group)
    return groups if axis == len(source) else None


RULES = (
    Rule("depth-to-space", ("Reshape",), _depth_to_space),
    Rule("space-to-depth", ("Reshape",), _space_to_depth),
    Rule("transpose-of-merged-axes", ("Reshape",), _transpose_of_merged_axes),
)
