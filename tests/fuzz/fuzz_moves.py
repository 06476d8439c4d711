"""Pieces of graphs that move elements."""

from __future__ import annotations

import numpy as np
from fuzz_builder import Item, Misfit, Scope
from fuzz_snippets import Snippet, affine, axes_of, image, unary


def transpose(s: Scope) -> Item:
    x = s.pick(lambda item: item.rank > 1)
    return s.node("Transpose", x, perm=s.random.sample(range(x.rank), x.rank))


def transposes_around(s: Scope) -> Item:
    """A Transpose, something that does not mind, and most often its inverse."""
    x = s.floats(2)
    perm = s.random.sample(range(x.rank), x.rank)
    y = s.node("Transpose", x, perm=perm)
    for _ in range(s.random.randint(1, 3)):
        before = len(s.items)
        s.random.choice((unary, affine, reduce_kept, concat, slice_one, softmax_last))(s)
        if len(s.items) > before and s.items[-1].is_float:
            y = s.items[-1]
    back = [perm.index(axis) for axis in range(len(perm))]
    if y.rank != len(back):
        raise Misfit
    return s.node("Transpose", y, perm=back if s.chance(0.8) else s.random.sample(perm, len(perm)))


def reduce_kept(s: Scope) -> Item:
    x = s.floats(1)
    return s.with_axes("ReduceMean", x, axes_of(s, x), keepdims=int(s.chance(0.5)))


def softmax_last(s: Scope) -> Item:
    x = s.floats(1)
    return s.node("Softmax", x, axis=x.rank - 1)


def slice_one(s: Scope) -> Item:
    x = s.pick(lambda item: item.rank > 0)
    axes = axes_of(s, x, s.random.randint(1, 2))
    starts = [s.random.randint(-x.shape[axis] - 1, x.shape[axis]) for axis in axes]
    ends = [s.random.choice([x.shape[axis], -1, 1 << 40, 2]) for axis in axes]
    steps = None
    if s.opset >= 10 and s.chance(0.5):
        steps = [s.random.choice([1, 1, 2, -1]) for _ in axes]
        ends = [-(1 << 40) if step < 0 else end for step, end in zip(steps, ends, strict=True)]
    return s.slice(x, starts, ends, axes, steps)


def slices(s: Scope) -> Item:
    slice_one(s)
    return slice_one(s)


def parts(s: Scope) -> Item:
    """A Split or Slices next to each other, and a Concat of all or some."""
    x = s.pick(lambda item: item.rank > 0 and max(item.shape) > 1)
    axis = s.random.choice([a for a in range(x.rank) if x.shape[a] > 1])
    cut = s.random.randint(0, x.shape[axis])
    if s.chance(0.5):
        pieces = s.split(x, axis, [cut, x.shape[axis] - cut])
    else:
        ends = [x.shape[axis], 1 << 40][s.random.randrange(2)]
        overlap = s.random.choice([0, 0, 0, 1])
        pieces = [
            s.slice(x, [0], [cut], [axis]),
            s.slice(x, [max(cut - overlap, 0)], [ends], [axis]),
        ]
    if s.chance(0.3):
        pieces = [s.node("Neg", piece) for piece in pieces]
    if s.chance(0.2):
        pieces.reverse()
    return s.node("Concat", *pieces, axis=axis if s.opset < 11 or s.chance(0.7) else axis - x.rank)


def concat(s: Scope) -> Item:
    x = s.pick(lambda item: item.rank > 0)
    axis = s.random.randrange(x.rank)

    def fits(item: Item) -> bool:
        rest = [
            (a, b) for i, (a, b) in enumerate(zip(item.shape, x.shape, strict=False)) if i != axis
        ]
        return item.dtype == x.dtype and item.rank == x.rank and all(a == b for a, b in rest)

    more = [s.pick(fits) for _ in range(s.random.randint(0, 2))]
    if s.chance(0.3):
        shape = [*x.shape[:axis], s.random.randint(0, 2), *x.shape[axis + 1 :]]
        more.append(s.constant(s.array(shape, x.dtype)))
    return s.node("Concat", x, *more, axis=axis)


def slice_of_concat(s: Scope) -> Item:
    concat(s)
    return s.random.choice((slice_one, gather, parts))(s)


def gather(s: Scope) -> Item:
    x = s.pick(lambda item: item.rank > 0)
    axis = s.random.choice([a for a in range(x.rank) if x.shape[a]] or [0])
    size = x.shape[axis]
    if not size:
        raise Misfit
    kind = s.random.randrange(4)
    if kind == 0:
        indices = np.array(s.random.randint(-size, size - 1))
    elif kind == 1:
        indices = np.arange(size)
    else:
        indices = np.array([s.random.randint(-size, size - 1) for _ in range(kind)])
    return s.node("Gather", x, s.constant(indices, s.random.choice(["i8", "i4"])), axis=axis)


def gathers(s: Scope) -> Item:
    x = s.pick(lambda item: item.rank > 0 and item.shape[0] > 1)
    found = [s.node("Gather", x, s.constant(np.int64(i)), axis=0) for i in range(x.shape[0])][:4]
    if s.chance(0.5):
        found = [s.with_axes("Unsqueeze", item, [0]) for item in found]
    if s.chance(0.3):
        s.random.shuffle(found)
    return s.node("Concat", *found, axis=0)


def view(s: Scope) -> Item:
    x = s.pick()
    kind = s.random.randrange(4)
    if kind == 0:
        axes = sorted(s.random.sample(range(x.rank + 1), 1))
        return s.with_axes("Unsqueeze", x, axes)
    if kind == 1:
        ones = [axis for axis in range(x.rank) if x.shape[axis] == 1]
        if not ones:
            raise Misfit
        if s.chance(0.2):
            return s.node("Squeeze", x)
        return s.with_axes(
            "Squeeze", x, sorted(s.random.sample(ones, s.random.randint(1, len(ones))))
        )
    if kind == 2:
        return s.node("Flatten", x, axis=s.random.randint(0, x.rank))
    return s.reshape(x, _other_shape(s, x))


def _other_shape(s: Scope, x: Item) -> list[int]:
    """Another shape of as many elements: axes are joined, split or moved."""
    shape = list(x.shape)
    for _ in range(2):
        kind = s.random.randrange(4)
        if kind == 0 and len(shape) > 1:
            at = s.random.randrange(len(shape) - 1)
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        elif kind == 1 and shape:
            at = s.random.randrange(len(shape))
            if shape[at] and shape[at] % 2 == 0:
                shape[at : at + 1] = s.random.sample([2, shape[at] // 2], 2)
        elif kind == 2:
            shape.insert(s.random.randint(0, len(shape)), 1)
        elif kind == 3 and 1 in shape:
            shape.remove(1)
    return shape


def views(s: Scope) -> Item:
    for _ in range(s.random.randint(1, 3)):
        s.random.choice((view, view, transpose))(s)
    return view(s)


def reshape_back(s: Scope) -> Item:
    x = s.floats(1)
    y = s.reshape(x, _other_shape(s, x))
    if s.chance(0.5):
        y = affine(s, y, 1)
    return s.reshape(y, x.shape)


def pad(s: Scope) -> Item:
    x = s.floats(1)
    for _ in range(s.random.randint(1, 2)):
        pads = [s.random.choice([0, 0, 1, 2]) for _ in range(2 * x.rank)]
        if s.chance(0.2):
            pads = [0] * len(pads)
        value = s.random.choice([0.0, 0.0, 1.5])
        x = (
            s.pad(x, pads, value)
            if s.chance(0.8)
            else s.pad(x, [min(p, 1) for p in pads], mode="edge")
        )
    return x


def spread(s: Scope) -> Item:
    x = s.pick()
    if s.chance(0.5):
        shape = [n if n != 1 or s.chance(0.5) else s.random.randint(1, 3) for n in x.shape]
        if s.chance(0.3):
            shape = [s.random.randint(1, 2), *shape]
        if s.chance(0.3):
            shape = [1 if s.chance(0.5) else n for n in shape]
        return s.node("Expand", x, s.ints(*shape))
    repeats = [s.random.choice([1, 1, 2]) for _ in range(x.rank)]
    y = s.node("Tile", x, s.ints(*repeats))
    return s.node("Tile", y, s.ints(*repeats)) if s.chance(0.3) else y


def pixel_shuffle(s: Scope) -> Item:
    """DepthToSpace, or SpaceToDepth, written out, and what is nearly one."""
    x = image(s)
    n, c, h, w = x.shape
    if s.chance(0.5):
        if c % 4:
            raise Misfit
        crd = s.chance(0.5)
        y = s.reshape(x, [n, c // 4, 2, 2, h, w] if crd else [n, 2, 2, c // 4, h, w])
        perm = [0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2]
        shape = [n, c // 4, 2 * h, 2 * w]
    else:
        if h % 2 or w % 2:
            raise Misfit
        y = s.reshape(x, [n, c, h // 2, 2, w // 2, 2])
        perm, shape = [0, 3, 5, 1, 2, 4], [n, 4 * c, h // 2, w // 2]
    if s.chance(0.2):
        perm[1], perm[2] = perm[2], perm[1]
    return s.reshape(s.node("Transpose", y, perm=perm), shape)


def shuffle_channels(s: Scope) -> Item:
    x = image(s)
    n, c, h, w = x.shape
    if c % 2:
        raise Misfit
    y = s.node("Transpose", s.reshape(x, [n, 2, c // 2, h, w]), perm=[0, 2, 1, 3, 4])
    return s.reshape(y, [n, c, h, w])


def scatter(s: Scope) -> Item:
    x = s.floats(1)
    if s.opset < 11 or not x.shape[0]:
        raise Misfit
    rows = list(range(x.shape[0]))
    if s.chance(0.3):
        rows = rows[::-1]
    if s.chance(0.3):
        rows = rows[1:] or rows
    shape = (len(rows), *x.shape[1:])
    updates = s.pick(lambda item: item.dtype == x.dtype and item.shape == shape)
    return s.node("ScatterND", x, s.constant(np.array([[row] for row in rows])), updates)


MOVES: tuple[Snippet, ...] = (
    transpose,
    transposes_around,
    transposes_around,
    slice_one,
    slices,
    parts,
    parts,
    concat,
    slice_of_concat,
    gather,
    gathers,
    view,
    views,
    reshape_back,
    pad,
    spread,
    pixel_shuffle,
    shuffle_channels,
    scatter,
)
