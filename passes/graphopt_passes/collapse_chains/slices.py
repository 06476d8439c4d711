"""Slice of Slice."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir.facts.data_rules import sliced
from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import vector

_END = 2**63 - 1  # to the end, whatever the size
_MAX_USERS = 64


@dataclass(frozen=True)
class Bounds:
    """What a Slice takes along one axis; the step is positive."""

    start: int
    end: int
    step: int = 1


def bounds_of(node: ir.Node, at: Rewriter) -> dict[int, Bounds] | None:
    """By axis, counted from 0, what a Slice takes; None if not known, or backwards."""
    starts, ends = at.ints(node, 1, "starts", 10), at.ints(node, 2, "ends", 10)
    axes = at.ints(node, 3, "axes", 10)
    steps = at.ints(node, 4, "steps", 10) if at.opset >= 10 else ()
    if not starts or not ends or axes is None or steps is None:
        return None
    axes, steps = axes or tuple(range(len(starts))), steps or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or min(steps) < 1:
        return None
    if min(axes) < 0:
        rank = at.rank(node.inputs[0])
        if rank is None or min(axes) < -rank:
            return None
        axes = tuple(axis % rank for axis in axes)
    if len(set(axes)) != len(axes):
        return None
    rows = zip(starts, ends, steps, strict=True)
    return {axis: Bounds(*row) for axis, row in zip(axes, rows, strict=True)}


def _slices(node: ir.Node, at: Rewriter) -> bool:
    """Slice of Slice -> one."""
    found = at.before(node, 0, "Slice")
    first = None if found is None else bounds_of(found, at)
    second = None if first is None else bounds_of(node, at)
    if found is None or first is None or second is None:
        return False
    if _has_siblings(found, at, first):
        return False
    dims = at.dims(found.inputs[0])
    merged = dict(first)
    for axis, bounds in second.items():
        size = dims[axis] if dims is not None and axis < len(dims) else None
        both = _compose(first.get(axis), bounds, size if isinstance(size, int) else None)
        if both is None:
            raise DeclinedError("the two Slices count from the end of an axis of unknown size")
        merged[axis] = both
    _write(node, at, found.inputs[0], merged)
    return True


def _has_siblings(node: ir.Node, at: Rewriter, mine: dict[int, Bounds]) -> bool:
    """Whether another Slice cuts the same value along the axis of `node`: a Split, maybe."""
    value = node.inputs[0]
    users = () if value is None else value.uses()
    if len(mine) != 1 or not 2 <= len(users) <= _MAX_USERS:
        return False
    others = (bounds_of(u.node, at) for u in users
              if u.node is not node and u.idx == 0 and at.is_op(u.node, "Slice"))  # fmt: skip
    return any(other is not None and other.keys() == mine.keys() for other in others)


def _compose(first: Bounds | None, second: Bounds, size: int | None) -> Bounds | None:
    """What `second` takes of what `first` takes of an axis of `size`; None if it depends on it."""
    if first is None:
        return second
    if size is not None:
        inner = sliced(size, first.start, first.end, first.step)
        outer = None if inner is None else sliced(len(inner), second.start, second.end, second.step)
        if inner is None or outer is None:
            return None
        taken = inner[outer.start : outer.stop : outer.step]
        return Bounds(taken.start, taken.stop, taken.step) if taken else Bounds(0, 0)
    if min(first.start, first.end, second.start, second.end) < 0:
        return None
    # Element j is number start + j * step of the original, as long as both ends are ahead of it.
    return Bounds(
        min(first.start + first.step * second.start, _END),
        min(first.end, first.start + first.step * second.end, _END),
        min(first.step * second.step, _END),
    )


def _write(node: ir.Node, at: Rewriter, source: ir.Value | None, cuts: dict[int, Bounds]) -> None:
    axes = sorted(cuts)
    starts, ends = [cuts[axis].start for axis in axes], [cuts[axis].end for axis in axes]
    steps = [cuts[axis].step for axis in axes]
    if at.opset < 10:
        attributes = {"axes": axes, "starts": starts, "ends": ends}
        at.become(node, "Slice", [source], attributes)
        return
    columns = {"starts": starts, "ends": ends, "axes": axes}
    if any(step != 1 for step in steps):
        columns["steps"] = steps
    inputs = [vector(numbers, what, node, at) for what, numbers in columns.items()]
    at.become(node, "Slice", [source, *inputs])


RULES = (Rule("slice-of-slice", ("Slice",), _slices),)
