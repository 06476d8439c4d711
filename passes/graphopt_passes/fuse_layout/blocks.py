"""Reshape, Transpose, Reshape: what moves blocks between channels and space, and what is less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dim, Dims, product
from graphopt.rewriting import DeclinedError, Rewriter, Rule

_RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")

# Before that opset a Constant node, where there may be no other constants, is of floats.
_INTEGER_CONSTANTS = 9

# Runtimes have DepthToSpace and SpaceToDepth for these.
_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)

# The axes of the first Reshape's result in the order after the Transpose, by ONNX's definition.
_DEPTH_COLUMN_ROW = (0, 3, 4, 1, 5, 2)
_COLUMN_ROW_DEPTH = (0, 1, 4, 2, 5, 3)
_SPACE_TO_DEPTH = (0, 3, 5, 1, 2, 4)


def _sandwich(
    node: ir.Node, at: Rewriter
) -> tuple[ir.Value, Dims, Dims, tuple[int, ...], Dims] | None:
    """Of a Reshape (or the like) of a Transpose of one: its source, and the dimensions on the way.

    The dimensions of the source, after the first Reshape, the permutation, and of the result.
    """
    transpose = at.before(node, 0, "Transpose")
    first = None if transpose is None else at.before(transpose, 0, *_RESHAPES)
    if first is None or transpose is None or first.inputs[0] is None:
        return None
    source, middle = at.dims(first.inputs[0]), at.dims(first.outputs[0])
    result = at.dims(node.outputs[0])
    if source is None or middle is None or result is None:
        return None
    order = transpose.attributes.get_ints("perm", tuple(reversed(range(len(middle)))))
    if sorted(order) != list(range(len(middle))) or at.opset < _INTEGER_CONSTANTS:
        return None
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


def _transpose_of_more_axes(node: ir.Node, at: Rewriter) -> bool:
    """A Transpose, after which axes are taken apart -> they are taken apart before it.

    What they are merged into before the Transpose is then one Reshape with that, or none at all.
    """
    found = _sandwich(node, at)
    if found is None or not at.has_operator("Transpose", 1):
        return False
    value, source, middle, order, result = found
    groups = _groups(tuple(middle[axis] for axis in order), result)
    if groups is None:
        return False
    apart = [group for axis in range(len(order)) for group in groups[order.index(axis)]]
    dims = tuple(result[axis] for axis in apart)
    shape = () if dims == source else _shape(dims, source)
    if shape is None or (shape and at.after(node, "Expand") is not None):
        return False  # that is the repeating of heads, as fuse-attention and runtimes know it
    if shape:
        target = at.constant(np.array(shape, np.int64), f"{node.outputs[0].name}_shape", node)
        value = at.insert(node, "Reshape", [value, target])
    perm = [apart.index(axis) for axis in range(len(result))]
    at.become(node, "Transpose", [value], {"perm": perm})
    return True


def _groups(merged: Dims, apart: Dims) -> list[list[int]] | None:
    """Which axes of `apart` each axis of `merged` is made of; None if it is otherwise."""
    groups: list[list[int]] = []
    axis = 0
    for position, dim in enumerate(merged):
        group: list[int] = []
        size: Dim = 1
        last = position == len(merged) - 1
        while axis < len(apart) and (size != dim or last):
            group.append(axis)
            size = product((size, apart[axis]))
            axis += 1
        if size != dim:
            return None
        groups.append(group)
    return groups if axis == len(apart) else None


def _shape(dims: Dims, source: Dims) -> list[int] | None:
    """The constant by which Reshape makes `dims` of `source`; None if there is none for sure.

    Either copies what is not a number or infers one: both at once fail where there are no elements.
    """
    numbers = [dim if isinstance(dim, int) else None for dim in dims]
    unknown = [axis for axis, dim in enumerate(numbers) if dim is None]
    if 0 in numbers or not dims:
        return None
    if all(axis < len(source) and source[axis] == dims[axis] for axis in unknown):
        return [0 if dim is None else dim for dim in numbers]
    return [-1 if dim is None else dim for dim in numbers] if len(unknown) == 1 else None


RULES = (
    Rule("depth-to-space", ("Reshape",), _depth_to_space),
    Rule("space-to-depth", ("Reshape",), _space_to_depth),
    Rule("transpose-of-more-axes", ("Reshape", "Squeeze", "Unsqueeze"), _transpose_of_more_axes),
)
