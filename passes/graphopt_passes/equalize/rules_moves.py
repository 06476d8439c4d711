"""Operators that commute with a positive factor for each channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.ir.facts import Dims
from graphopt.ir.facts.data_rules import sliced
from graphopt_passes.equalize.sweep import BarrierError, Op, Rule
from graphopt_passes.prune_channels.atoms import Labels


def same(op: Op) -> Labels:
    """f(s x) = s f(x) for each element and s > 0."""
    return op.labels(0)


def dropout(op: Op) -> Labels:
    if op.has(2) or any(value.uses() for value in op.node.outputs[1:]):
        raise BarrierError("it may be in training mode")
    return op.labels(0)


def prelu(op: Op) -> Labels:
    if not op.is_constant(1):
        op.freeze(op.labels(1))
    return op.labels(0)


def clip(op: Op) -> Labels:
    """Only what is a Relu by another name: any other limit would have to be one per channel."""
    low, high = op.constant(1), op.constant(2)
    if op.opset < 11 or op.has(2) or low is None or high is not None or low.any():
        raise BarrierError("it has limits")
    return op.labels(0)


def window(op: Op) -> Labels:
    """Pooling and resizing: what is mixed lies in one channel."""
    if any(value.uses() for value in op.node.outputs[1:]):
        raise BarrierError("its indices are read")
    labels = op.labels(0)
    return op.level(labels, range(2, labels.ndim))


def resize(op: Op) -> Labels:
    if op.node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise BarrierError("it extrapolates")
    labels, new = op.labels(0), op.out_dims()
    if labels.ndim and op.dims(0)[:2] != new[:2]:
        raise BarrierError("it resizes channels")
    return op.level(labels, range(2, labels.ndim))


def pad(op: Op) -> Labels:
    mode = op.node.attributes.get_string("mode", "constant")
    filled = op.has(2) and (not op.is_constant(2) or bool(np.any(op.constant(2))))
    if mode == "wrap" or (mode == "constant" and (filled or op.opset < 11)):
        raise BarrierError("it pads with other values than zeros")
    labels, pads = op.labels(0), op.ints(1, "pads")
    if pads is None:
        raise BarrierError("its pads are not known")
    axes = op.ints(3, "axes") or list(range(len(pads) // 2))
    padded = [a for a, b, e in zip(axes, pads, pads[len(axes) :], strict=False) if b or e]
    return op.level(labels, padded)


def together(op: Op) -> Labels:
    """Sums, and the greatest or least of several: all must be scaled alike."""
    indices = [i for i in range(len(op.node.inputs)) if not op.is_constant(i)]
    if not indices:
        raise BarrierError("all of it is constant")
    return _alike(op, indices[0], range(len(op.node.inputs)))


def where(op: Op) -> Labels:
    return _alike(op, 2 if op.is_constant(1) else 1, (1, 2))


def _alike(op: Op, first: int, indices: Sequence[int]) -> Labels:
    rank = len(op.out_dims())
    labels = op.labels(first)
    for index in indices:
        if index != first and not op.is_constant(index):
            labels = op.tie(labels, op.labels(index))
    for index in indices:
        if op.is_constant(index):
            op.follow(index, labels)
    return (
        labels.reshape([1] * (rank - labels.ndim) + list(labels.shape)) if labels.ndim else labels
    )


def reduce(op: Op) -> Labels:
    labels, rank = op.labels(0), len(op.dims(0))
    given = op.ints(1, "axes")
    if not given and op.attribute("noop_with_empty_axes", 0):
        return labels
    axes = [axis % rank for axis in given] if given else list(range(rank))
    labels = op.level(labels, axes)
    if labels.ndim == 0 or op.attribute("keepdims", 1):
        return labels
    return labels.reshape([n for axis, n in enumerate(labels.shape) if axis not in axes])


def transpose(op: Op) -> Labels:
    labels = op.labels(0)
    if labels.ndim == 0:
        return labels
    perm = op.node.attributes.get_ints("perm", None)
    return np.transpose(labels, None if perm is None else tuple(perm))


def view(op: Op) -> Labels:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    labels = op.labels(0)
    return labels if labels.ndim == 0 else _reshaped(labels, op.dims(0), op.out_dims())


def _reshaped(labels: Labels, old: Dims, new: Dims) -> Labels:
    """`labels` of a tensor of dimensions `old`, seen as one of dimensions `new`.

    Leading and trailing axes that stay are followed whatever their length. Between them the
    lengths must be known, unless there is but one label there.
    """
    start = end = 0
    shortest = min(len(old), len(new))
    while start < shortest and old[start] == new[start]:
        start += 1
    while end < shortest - start and old[-1 - end] == new[-1 - end]:
        end += 1
    inner, outer = old[start : len(old) - end], new[start : len(new) - end]
    kept = labels.shape[:start], labels.shape[len(old) - end :]
    if all(n == 1 for n in labels.shape[start : len(old) - end]):
        return labels.reshape((*kept[0], *(1 for _ in outer), *kept[1]))
    known = [dim for dim in (*inner, *outer) if isinstance(dim, int)]
    if len(known) < len(inner) + len(outer) or math.prod(inner) != math.prod(outer):  # type: ignore[arg-type]
        raise BarrierError("channels cannot be followed through it")
    whole = np.broadcast_to(labels, (*kept[0], *known[: len(inner)], *kept[1]))
    found = whole.reshape((*kept[0], *known[len(inner) :], *kept[1]))
    for axis in range(start, start + len(outer)):
        first = np.take(found, [0], axis)
        if np.array_equal(np.broadcast_to(first, found.shape), found):
            found = first
    return found


def expand(op: Op) -> Labels:
    labels, rank = op.labels(0), len(op.out_dims())
    return (
        labels.reshape([1] * (rank - labels.ndim) + list(labels.shape)) if labels.ndim else labels
    )


def concat(op: Op) -> Labels:
    rank = len(op.out_dims())
    axis = op.axis(0, rank)
    indices = range(len(op.node.inputs))
    parts = [op.labels(i) for i in indices]
    if all(op.is_frozen(part) for part in parts):
        return op.frozen("a constant")
    full = [part.reshape([1] * rank) if part.ndim == 0 else part for part in parts]
    if all(part.shape[axis] == 1 for part in full):  # the channels lie along another axis
        first = next(i for i in indices if not op.is_constant(i))
        return _alike(op, first, indices)
    joined = []
    for i, part in enumerate(full):
        size = op.dims(i)[axis]
        if not isinstance(size, int):
            raise BarrierError("the length of an input is not known")
        joined.append(np.repeat(part, size, axis) if part.shape[axis] == 1 else part)
    shape = [max(part.shape[a] for part in joined) for a in range(rank)]
    wide = [np.broadcast_to(p, [*shape[:axis], p.shape[axis], *shape[axis + 1 :]]) for p in joined]
    return np.concatenate(wide, axis)


def split(op: Op) -> Sequence[Labels]:
    labels, rank = op.labels(0), len(op.dims(0))
    axis = op.axis(0, rank)
    if labels.ndim == 0 or labels.shape[axis] == 1:
        return [labels for _ in op.node.outputs]
    dims = [op.out_dims(i)[axis] for i in range(len(op.node.outputs))]
    sizes = [size for size in dims if isinstance(size, int)]
    if len(sizes) < len(dims):
        raise BarrierError("the length of an output is not known")
    return np.split(labels, np.cumsum(sizes)[:-1], axis)


def slice_(op: Op) -> Labels:
    labels = op.labels(0)
    starts, ends = op.ints(1, "starts"), op.ints(2, "ends")
    if labels.ndim == 0 or starts is None or ends is None:
        return labels
    axes = op.ints(3, "axes") or list(range(len(starts)))
    steps = op.ints(4, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        count = labels.shape[axis]
        if count > 1:
            chosen = sliced(count, start, end, step)
            if not chosen:
                raise BarrierError("it takes nothing")
            labels = np.take(labels, list(chosen), axis)
    return labels


def gather(op: Op) -> Labels:
    labels, rank = op.labels(0), len(op.dims(0))
    if op.is_constant(0) or labels.ndim == 0:
        return op.frozen("a constant") if op.is_constant(0) else labels
    axis = op.axis(0, rank)
    indices = op.constant(1)
    if labels.shape[axis] > 1:
        if indices is None:
            raise BarrierError("its indices are computed")
        return np.take(labels, indices.astype(np.int64), axis)
    places = len(op.dims(1))
    return labels.reshape(labels.shape[:axis] + (1,) * places + labels.shape[axis + 1 :])


def attention(op: Op) -> Labels:
    """The values keep the factors of their channels; queries and keys take none.

    The values are of rank 4 [batch, heads, length, channels], or of rank 3 [batch, length,
    heads * channels] with as many heads as the queries have.
    """
    for index in range(len(op.node.inputs)):
        if index != 2 and op.has(index) and not op.is_constant(index):
            op.freeze(op.labels(index))
    heads = [op.attribute(f"{kind}_num_heads", 0) for kind in ("q", "kv")]
    same_heads = heads[0] == heads[1]
    if op.node.inputs[4:] or len(op.node.outputs) > 1 or not same_heads or op.is_constant(2):
        raise BarrierError("it has a past, or fewer heads of keys than of queries")
    if len(op.dims(0)) != len(op.dims(2)):
        raise BarrierError("its inputs differ in rank")
    labels = op.labels(2)
    if labels.ndim == 3:
        return op.level(labels, [1])
    if labels.ndim == 4 and labels.shape[1] > 1 and op.dims(0)[1] != op.dims(2)[1]:
        raise BarrierError("it has fewer heads of keys than of queries")
    return op.level(labels, [2])


RULES: dict[str, Rule] = {
    "Abs": same,
    "Add": together,
    "Attention": attention,
    "AveragePool": window,
    "Clip": clip,
    "Concat": concat,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": view,
    "Gather": gather,
    "GlobalAveragePool": window,
    "GlobalMaxPool": window,
    "Identity": same,
    "LeakyRelu": same,
    "Max": together,
    "MaxPool": window,
    "Min": together,
    "Neg": same,
    "PRelu": prelu,
    "Pad": pad,
    "ReduceL1": reduce,
    "ReduceL2": reduce,
    "ReduceMax": reduce,
    "ReduceMean": reduce,
    "ReduceMin": reduce,
    "ReduceSum": reduce,
    "Relu": same,
    "Reshape": view,
    "Resize": resize,
    "Slice": slice_,
    "Split": split,
    "Squeeze": view,
    "Sub": together,
    "Sum": together,
    "Transpose": transpose,
    "Unsqueeze": view,
    "Upsample": resize,
    "Where": where,
}
