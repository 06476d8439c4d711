"""Operators that move elements about, where none moves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.rewriting import Rewriter, Rule
from graphopt_passes.eliminate_noops.handing import hand_on, noops

_END = 2**31 - 1  # and more: to the end, whatever the size

# Larger constants are not looked into.
_MAX_ELEMENTS = 1 << 16


def _has_own_dims(node: ir.Node, at: Rewriter) -> bool:
    """Whether the first output surely has the shape of the first input."""
    dims = at.dims(node.inputs[0])
    return dims is not None and dims == at.dims(node.outputs[0])


def _is_shape_of(value: ir.Value | None, tensor: ir.Value | None, at: Rewriter) -> bool:
    """Whether `value` is the whole shape of `tensor`, whatever that may be."""
    node = at.producer(value, "Shape")
    if node is None or node.inputs[0] is not tensor:
        return False
    return node.attributes.get_int("start", 0) == 0 and "end" not in node.attributes


def _reshape(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """What keeps the order of the elements, to the shape that they have already."""
    value = node.inputs[0]
    given = node.op_type in ("Expand", "Reshape") and len(node.inputs) > 1
    if given and _is_shape_of(node.inputs[1], value, at):
        return value
    return value if _has_own_dims(node, at) else None


def _tile(node: ir.Node, at: Rewriter) -> ir.Value | None:
    if at.opset < 6:  # one axis at a time
        return None
    repeats = at.facts[node.inputs[1]].ints()
    ones = bool(repeats) and set(repeats or ()) == {1}
    return node.inputs[0] if ones or _has_own_dims(node, at) else None


def _slice(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Every element, from first to last."""
    steps = at.ints(node, 4, "steps", 10)
    if steps is None or any(step <= 0 for step in steps):
        return None
    if _has_own_dims(node, at):
        return node.inputs[0]
    starts, ends = at.ints(node, 1, "starts", 10), at.ints(node, 2, "ends", 10)
    if not starts or not ends or any(starts) or min(ends) < _END:
        return None
    return node.inputs[0] if set(steps) <= {1} else None


def _split(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """One part, or one that leaves nothing to the others."""
    whole = len(node.outputs) == 1 or _has_own_dims(node, at)
    return node.inputs[0] if whole else None


def _transpose(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """To the order of axes that there is, those of one element left out of account."""
    order = list(node.attributes.get_ints("perm", ()))
    if order and order == list(range(len(order))):
        return node.inputs[0]
    dims = at.dims(node.inputs[0])
    if dims is None:
        return None
    order = order or list(reversed(range(len(dims))))
    if len(order) != len(dims) or tuple(dims[axis] for axis in order) != dims:
        return None
    moving = [axis for axis in order if dims[axis] != 1]
    return node.inputs[0] if moving == sorted(moving) else None


def _pad(node: ir.Node, at: Rewriter) -> ir.Value | None:
    pads = at.ints(node, 1, "pads", 11) if at.opset >= 2 else None
    return node.inputs[0] if pads and not any(pads) else None


def _blocks(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """DepthToSpace and SpaceToDepth in blocks of one element."""
    return node.inputs[0] if node.attributes.get_int("blocksize", 0) == 1 else None


def _gather(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """All along an axis, in order."""
    dims = at.dims(node.inputs[0])
    axis: int = node.attributes.get_int("axis", 0)
    if not dims or not -len(dims) <= axis < len(dims):
        return None
    size = dims[axis]
    if not isinstance(size, int) or not 0 < size <= _MAX_ELEMENTS:
        return None
    if at.dims(node.inputs[1]) != (size,):
        return None
    indices = at.array(node.inputs[1])
    if indices is None or not -size <= int(indices[0]) < size:
        return None
    in_range = bool(((indices >= -size) & (indices < size)).all())
    ordered = in_range and bool((indices % size == np.arange(size)).all())
    return node.inputs[0] if ordered else None


def _scatter_nd(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Updates that overwrite everything, in order."""
    dims = _overwritten_dims(node, at)
    shape = at.dims(node.inputs[1])
    if not dims or not shape or not isinstance(shape[-1], int) or shape[-1] > len(dims):
        return None
    sizes = _sizes(dims[: shape[-1]])
    if not sizes or shape != (*sizes, len(sizes)):
        return None
    indices = at.array(node.inputs[1])
    grid = np.moveaxis(np.indices(sizes), 0, -1)
    return node.inputs[2] if indices is not None and np.array_equal(indices, grid) else None


def _scatter_elements(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Updates that overwrite everything, in order."""
    dims = _overwritten_dims(node, at)
    axis: int = node.attributes.get_int("axis", 0)
    if not dims or at.dims(node.inputs[1]) != dims or not -len(dims) <= axis < len(dims):
        return None
    sizes = _sizes(dims)
    indices = None if not sizes else at.array(node.inputs[1])
    if not sizes or indices is None:
        return None
    return node.inputs[2] if (indices == np.indices(sizes)[axis % len(dims)]).all() else None


def _overwritten_dims(node: ir.Node, at: Rewriter) -> Dims | None:
    """The dimensions of data and updates of a scatter that only overwrites, if they are the same
    and the indices are constant."""
    if node.attributes.get_string("reduction", "none") != "none":
        return None
    if not at.is_constant(node.inputs[1]):
        return None
    dims = at.dims(node.inputs[0])
    return dims if dims is not None and dims == at.dims(node.inputs[2]) else None


def _sizes(dims: Dims) -> tuple[int, ...] | None:
    """`dims`, if they are numbers and count few enough elements."""
    sizes = tuple(dim for dim in dims if isinstance(dim, int) and dim > 0)
    fits = len(sizes) == len(dims) and int(np.prod(sizes)) <= _MAX_ELEMENTS
    return sizes if fits else None


def _concat(node: ir.Node, at: Rewriter) -> bool:
    """Drops inputs that are empty along the axis, and the Concat of a single input."""
    used = list(node.inputs)
    if len(used) > 1:
        axis: int = node.attributes.get_int("axis", 1)  # the default of opsets up to 3
        used = [value for value in used if not _is_empty(value, axis, at)] or used[:1]
    if len(used) == 1 and used[0] is not None:
        return hand_on(node, at, used[0])
    if len(used) == len(node.inputs):
        return False
    at.become(node, "Concat", used, {"axis": axis})
    return True


def _is_empty(value: ir.Value | None, axis: int, at: Rewriter) -> bool:
    dims = at.dims(value)
    return dims is not None and -len(dims) <= axis < len(dims) and dims[axis] == 0


RULES = (
    *noops(_reshape, "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze"),
    *noops(_tile, "Tile"),
    *noops(_slice, "Slice"),
    *noops(_split, "Split"),
    *noops(_transpose, "Transpose"),
    *noops(_pad, "Pad"),
    *noops(_blocks, "DepthToSpace", "SpaceToDepth"),
    *noops(_gather, "Gather"),
    *noops(_scatter_nd, "ScatterND"),
    *noops(_scatter_elements, "ScatterElements"),
    Rule("noop-concat", ("Concat",), _concat),
)
