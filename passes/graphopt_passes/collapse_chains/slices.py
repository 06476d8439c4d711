"""Slices of what a Slice or a Concat gives."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir.facts.data_rules import sliced
from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import (
    axis_of,
    dim,
    gives_way,
    hand_on,
    ints,
    normal,
    vector,
)

# To Slice, any end from here on is the end of the axis.
OPEN_END = 2**31 - 1
# Going backwards, an end that is before the first element of every axis.
BEFORE_ALL = -(2**31)


@dataclass(frozen=True)
class Cut:
    """What a Slice takes of one axis, as it says it."""

    start: int
    end: int
    step: int = 1

    @property
    def is_open(self) -> bool:
        return self.end >= OPEN_END


def cuts(node: ir.Node, at: Rewriter) -> dict[int, Cut] | None:
    """What a Slice takes, by axis; None if that is not constant."""
    starts, ends = ints(node, at, 1, "starts", 10), ints(node, at, 2, "ends", 10)
    axes = ints(node, at, 3, "axes", 10)
    steps = ints(node, at, 4, "steps", 10) if at.opset >= 10 else []
    if starts is None or ends is None or axes is None or steps is None:
        return None
    places = normal(axes or range(len(starts)), at.rank(node.inputs[0]))
    steps = steps or [1] * len(starts)
    if places is None or not len(starts) == len(ends) == len(places) == len(steps):
        return None
    if len(set(places)) != len(places) or 0 in steps:
        return None
    found = zip(places, starts, ends, steps, strict=True)
    return {axis: Cut(start, end, step) for axis, start, end, step in found}


def merge_slices(node: ir.Node, at: Rewriter) -> bool:
    """A Slice of a Slice is one Slice."""
    inner = at.producer(node.inputs[0], "Slice")
    if inner is None:
        return False
    first, outer = cuts(inner, at), cuts(node, at)
    if first is None or outer is None:
        return False
    if not gives_way(inner, at, "Slice"):
        raise DeclinedError("what the first Slice gives is used elsewhere too")
    dims = at.dims(inner.inputs[0])
    merged = dict(first)
    for axis, cut in outer.items():
        both = cut if axis not in first else _cut_twice(dim(dims, axis), first[axis], cut)
        if both is None:
            raise DeclinedError(f"what both take of axis {axis} depends on its size")
        merged[axis] = both
    become_slice(node, inner.inputs[0], merged, at)
    return True


def _cut_twice(size: int | None, first: Cut, then: Cut) -> Cut | None:
    """What `then` takes of what `first` takes of an axis of `size` (None: not known)."""
    if size is not None:
        one = sliced(size, first.start, first.end, first.step)
        two = None if one is None else sliced(len(one), then.start, then.end, then.step)
        return None if one is None or two is None else _as_cut(one, two)
    if first.step != 1 or then.step != 1 or first.start < 0 or then.start < 0:
        return None
    end = _end_twice(first, then)
    return None if end is None else Cut(first.start + then.start, end)


def _as_cut(one: range, two: range) -> Cut:
    """The indices `two` of the indices `one`, as a Slice says it."""
    if not two:
        return Cut(0, 0)
    start, last, step = one[two[0]], one[two[-1]], one.step * two.step
    if len(two) == 1:
        return Cut(start, start + 1)
    end = last + (1 if step > 0 else -1)
    return Cut(start, end if end >= 0 else BEFORE_ALL, step)


def _end_twice(first: Cut, then: Cut) -> int | None:
    """Where both end, whatever the size; their starts count from the front, their steps are 1."""
    if then.is_open:
        return first.end
    if first.is_open:
        return then.end if then.end < 0 else first.start + then.end
    if first.end >= 0 and then.end >= 0:
        return min(first.end, first.start + then.end)
    return first.end + then.end if first.end < 0 and then.end < 0 else None


def become_slice(
    node: ir.Node, source: ir.Value | None, merged: dict[int, Cut], at: Rewriter
) -> None:
    parts = {
        "starts": [cut.start for cut in merged.values()],
        "ends": [cut.end for cut in merged.values()],
        "axes": list(merged),
    }
    if at.opset < 10:
        at.become(node, "Slice", [source], parts)
        return
    if any(cut.step != 1 for cut in merged.values()):
        parts["steps"] = [cut.step for cut in merged.values()]
    base = node.outputs[0].name
    values = [vector(at, items, f"{base}_{name}", node) for name, items in parts.items()]
    at.become(node, "Slice", [source, *values])


def slice_of_concat(node: ir.Node, at: Rewriter) -> bool:
    """A Slice that takes only from one operand of a Concat takes from that operand."""
    joined = at.producer(node.inputs[0], "Concat")
    taken = None if joined is None else cuts(node, at)
    if joined is None or not taken:
        return False
    axis = axis_of(joined, 1, at.rank(joined.outputs[0]))
    cut = None if axis is None else taken.get(axis)
    if axis is None or cut is None or cut.step != 1:
        return False
    total = dim(at.dims(joined.outputs[0]), axis)
    start, end = _bounds(cut, total)
    if start is None or end is None or start >= end:
        return False
    found = operand_with(joined, axis, start, end, at)
    if found is None:
        return False
    operand, offset, size = found
    rest = {place: one for place, one in taken.items() if place != axis}
    whole = (start - offset, end - offset) == (0, size)
    if whole and not rest:
        return hand_on(node, operand, at)
    if at.before(node, 0, "Concat") is None:
        return False
    if not whole:
        rest = {**rest, axis: Cut(start - offset, end - offset)}
    become_slice(node, operand, rest, at)
    return True


def _bounds(cut: Cut, total: int | None) -> tuple[int | None, int | None]:
    """The first index that `cut` takes, and the one after the last, if they are known."""
    if total is not None:
        chosen = sliced(total, cut.start, cut.end, 1)
        return (None, None) if chosen is None else (chosen.start, chosen.stop)
    return (None, None) if cut.start < 0 or cut.end < 0 or cut.is_open else (cut.start, cut.end)


def operand_with(
    joined: ir.Node, axis: int, start: int, end: int, at: Rewriter
) -> tuple[ir.Value, int, int] | None:
    """The operand of a Concat that holds `start` to `end`, where it begins, and its size."""
    offset = 0
    for value in joined.inputs:
        size = dim(at.dims(value), axis)
        if value is None or size is None:
            return None
        if offset <= start and end <= offset + size:
            return value, offset, size
        offset += size
    return None
