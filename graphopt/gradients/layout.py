"""Gradients of operators that move elements about."""

from __future__ import annotations

import numpy as np

from graphopt.gradients.call import Array, Call, Rule, fold


def _reshape(call: Call, index: int) -> Array:
    return np.reshape(call.dy, call.x.shape)


def _transpose(call: Call, index: int) -> Array:
    perm = call.node.attributes.get_ints("perm", None)
    return np.transpose(call.dy, None if perm is None else np.argsort(perm))


def _concat(call: Call, index: int) -> Array:
    axis = call.axis(0)
    sizes = [value.shape[axis] if value is not None else 0 for value in call.inputs]
    start = sum(sizes[:index])
    return np.take(call.dy, range(start, start + sizes[index]), axis)


def _split(call: Call, index: int) -> Array:
    parts = [
        np.zeros(value.shape, call.x.dtype) if gradient is None else gradient
        for value, gradient in zip(call.outputs, call.gradients, strict=True)
        if value is not None
    ]
    return np.concatenate(parts, call.axis(0))


def _slice(call: Call, index: int) -> Array:
    x = call.x
    starts, ends = call.ints("starts", 1), call.ints("ends", 2)
    assert starts is not None
    assert ends is not None
    axes = call.ints("axes", 3) or list(range(len(starts)))
    steps = call.ints("steps", 4) or [1] * len(starts)
    index_of = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        start = start + size if start < 0 else start
        end = end + size if end < 0 else end
        if step > 0:
            index_of[axis] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
        else:
            last = min(max(end, -1), size - 1)
            index_of[axis] = slice(min(max(start, 0), size - 1), None if last < 0 else last, step)
    gradient = np.zeros(x.shape, call.dy.dtype)
    gradient[tuple(index_of)] = call.dy
    return gradient


def _gather(call: Call, index: int) -> Array:
    axis, ids = call.axis(0), call.input(1)
    gradient = np.zeros(call.x.shape, call.dy.dtype)
    moved = np.moveaxis(call.dy, range(axis, axis + ids.ndim), range(ids.ndim))
    np.add.at(np.moveaxis(gradient, axis, 0), ids, moved)
    return gradient


def _gather_elements(call: Call, index: int) -> Array:
    axis, ids = call.axis(0), call.input(1)
    gradient = np.zeros(call.x.shape, call.dy.dtype)
    places: list[Array] = list(np.indices(ids.shape, sparse=True))
    places[axis] = ids
    np.add.at(gradient, tuple(places), call.dy)
    return gradient


def _gather_nd(call: Call, index: int) -> Array:
    ids = call.input(1)
    gradient = np.zeros(call.x.shape, call.dy.dtype)
    np.add.at(gradient, tuple(np.moveaxis(ids, -1, 0)), call.dy)
    return gradient


def _expand(call: Call, index: int) -> Array:
    return fold(call.dy, call.x.shape)


def _tile(call: Call, index: int) -> Array:
    shape = [
        n for size, count in zip(call.x.shape, call.input(1), strict=True) for n in (count, size)
    ]
    return np.asarray(call.dy.reshape(shape).sum(axis=tuple(range(0, len(shape), 2))))


def _pad(call: Call, index: int) -> Array:
    """Of the data: what is cut off by negative pads has no gradient."""
    pads, rank = call.ints("pads", 1), call.x.ndim
    assert pads is not None
    axes = call.ints("axes", 3) or list(range(rank))
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[len(axes) + place]
    inside = tuple(
        slice(max(b, 0), n - max(a, 0))
        for b, a, n in zip(before, after, call.dy.shape, strict=True)
    )
    back = [(max(-b, 0), max(-a, 0)) for b, a in zip(before, after, strict=True)]
    return np.pad(call.dy[inside], back)


def _depth_to_space(call: Call, index: int) -> Array:
    n, c, h, w = call.x.shape
    b = call.node.attributes.get_int("blocksize", 1)
    split = call.dy.reshape(n, c // b**2, h, b, w, b)
    crd = call.node.attributes.get_string("mode", "DCR") == "CRD"
    moved = split.transpose((0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4))
    return np.reshape(moved, call.x.shape)


def _space_to_depth(call: Call, index: int) -> Array:
    n, c, h, w = call.x.shape
    b = call.node.attributes.get_int("blocksize", 1)
    split = call.dy.reshape(n, b, b, c, h // b, w // b)
    return np.reshape(split.transpose(0, 3, 4, 1, 5, 2), call.x.shape)


def _trilu(call: Call, index: int) -> Array:
    k = int(call.input(1)) if call.has(1) else 0
    cut = np.triu if call.node.attributes.get_int("upper", 1) else np.tril
    return np.asarray(cut(call.dy, k))


def _cumulative(call: Call, index: int) -> Array:
    axis = int(call.input(1))
    gradient = call.dy
    forward = call.flag("reverse")  # the gradient runs the other way
    if not forward:
        gradient = np.flip(gradient, axis)
    total = np.cumsum(gradient, axis)
    if call.flag("exclusive"):
        total = total - gradient
    return total if forward else np.flip(total, axis)


RULES: dict[str, Rule] = {
    "Concat": _concat,
    "CumSum": _cumulative,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _reshape,
}
