"""What a reshape does to labels: both shapes are cut into the smallest blocks of equal product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.sweep import Decline, Op

Block = tuple[list[int], list[int]]


def blocks(old: Sequence[int], new: Sequence[int]) -> list[Block]:
    """Pairs (axes of `old`, axes of `new`) of equal product, as short as can be.

    Axes of length 1 belong to no block.

    Raises:
        Decline: if the shapes do not have the same number of elements, or none at all.
    """
    if math.prod(old) != math.prod(new) or 0 in old:
        raise Decline(f"it turns {list(old)} into {list(new)}")
    left = [axis for axis, n in enumerate(old) if n != 1]
    right = [axis for axis, n in enumerate(new) if n != 1]
    found: list[Block] = []
    i = j = 0
    while i < len(left):
        start = i, j
        a, b = old[left[i]], new[right[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * old[left[i]], i + 1
            else:
                b, j = b * new[right[j]], j + 1
        found.append((left[start[0] : i], right[start[1] : j]))
    return found


def regroup(op: Op, x: list[Labels], new: Sequence[int], fixed: Sequence[bool]) -> list[Labels]:
    """The labels of `x` reshaped to `new`.

    In each block one axis of the input and one of the output keep their labels, those with the
    most atoms; the others stay whole. Where whole heads are to go, that is the axis in front of the
    last, if features (the last axis) are split.

    Args:
        fixed: for each axis of `new`, whether the graph states its length (as a number, 0 or -1);
            a computed length cannot follow what is cut.
    """
    out = [op.frozen(n) for n in new]
    for old_axes, new_axes in blocks([len(axis) for axis in x], new):
        if len(old_axes) == len(new_axes) == 1 and fixed[new_axes[0]]:
            out[new_axes[0]] = x[old_axes[0]]
            continue
        best = max(old_axes, key=lambda axis: (len(op.free(x[axis])), axis))
        for axis in old_axes:
            if axis != best:
                op.freeze(x[axis], f"{op} joins or splits this axis")
        sizes, place = [len(x[a]) for a in old_axes], old_axes.index(best)
        flat = _spread(x[best], sizes, place)
        atoms = _spread(_numbered(op, x[best]), sizes, place)
        counts = {
            axis: _count_after_ties(_rows(atoms, [new[a] for a in new_axes], place))
            for place, axis in enumerate(new_axes)
            if fixed[axis]
        }
        chosen = max(counts, key=lambda axis: (counts[axis], axis), default=None)
        heads = new_axes[-1] - 1
        if op.whole_heads and new_axes[-1] == len(new) - 1 and counts.get(heads):
            chosen = heads
        if chosen is None or counts[chosen] == 0:
            op.freeze(x[best], f"{op} joins or splits this axis")
            continue
        rows = _rows(flat, [new[a] for a in new_axes], new_axes.index(chosen))
        op.tie(np.broadcast_to(rows[:, :1], rows.shape).reshape(-1), rows.reshape(-1))
        out[chosen] = rows[:, 0]
    return out


def _rows(flat: Labels, shape: list[int], place: int) -> Labels:
    """A block of `shape`, of which `flat` is the data, as one row for each position of an axis."""
    return np.moveaxis(flat.reshape(shape), place, 0).reshape(shape[place], -1)


def _spread(labels: Labels, shape: list[int], axis: int) -> Labels:
    """The labels of one axis of a block, at each position of the whole block."""
    view = labels.reshape([n if place == axis else 1 for place, n in enumerate(shape)])
    return np.broadcast_to(view, shape).reshape(-1)


def _numbered(op: Op, labels: Labels) -> Labels:
    """The atoms of `labels` counted from 1; 0 is all that are frozen."""
    free = op.free(labels)
    if len(free) == 0:
        return np.zeros_like(labels)
    roots = op.roots(labels)
    place = np.searchsorted(free, roots).clip(max=len(free) - 1)
    return np.where(free[place] == roots, place + 1, 0)


def _count_after_ties(rows: Labels) -> int:
    """How many of the atoms (0 is frozen) are left if each row is tied together."""
    count = int(rows.max()) + 1
    parent = list(range(count))

    def find(atom: int) -> int:
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    for pair in np.unique(rows[:, :1] * count + rows).tolist():
        low, high = sorted((find(pair // count), find(pair % count)))
        parent[high] = low
    return sum(find(atom) == atom for atom in range(1, count))
