"""Concat, Split, Pad, Expand and Tile of one another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import (
    axis_of,
    constant_ints,
    dim,
    gives_way,
    hand_on,
    ints,
    normal,
    vector,
)
from graphopt_passes.collapse_chains.slices import Cut, cuts

# More operands than this are taken in a few at a time, in several visits.
MAX_OPERANDS = 1024


def merge_concats(node: ir.Node, at: Rewriter) -> bool:
    """Concats on the same axis among the operands of a Concat give it their own operands."""
    rank = at.rank(node.outputs[0])
    axis = axis_of(node, 1, rank)
    operands: list[ir.Value | None] = []
    merged = False
    for index, value in enumerate(node.inputs):
        inner = at.before(node, index, "Concat")
        if inner is not None and _same_axis(node, inner, axis, rank):
            operands.extend(inner.inputs)
            merged = True
        else:
            operands.append(value)
    if not merged or len(operands) > MAX_OPERANDS:
        return False
    at.become(node, "Concat", operands, {"axis": node.attributes.get_int("axis", 1)})
    return True


def _same_axis(node: ir.Node, inner: ir.Node, axis: int | None, rank: int | None) -> bool:
    if node.attributes.get_int("axis", 1) == inner.attributes.get_int("axis", 1):
        return True
    return axis is not None and axis == axis_of(inner, 1, rank)


def concat_of_parts(node: ir.Node, at: Rewriter) -> bool:
    """A Concat of all parts of a Split, or of Slices that make a whole, is what was parted."""
    if len(node.inputs) < 2:
        return False
    split = at.producer(node.inputs[0], "Split")
    if split is not None:
        return _concat_of_split(node, split, at)
    if at.producer(node.inputs[0], "Slice") is not None:
        return _concat_of_slices(node, at)
    return False


def _concat_of_split(node: ir.Node, split: ir.Node, at: Rewriter) -> bool:
    if [*node.inputs] != [*split.outputs]:
        return False
    rank = at.rank(node.outputs[0])
    default = node.attributes.get_int("axis", 1)
    if split.attributes.get_int("axis", 0) != default:
        axis = axis_of(node, 1, rank)
        if axis is None or axis != axis_of(split, 0, rank):
            return False
    return hand_on(node, split.inputs[0], at)


def _concat_of_slices(node: ir.Node, at: Rewriter) -> bool:
    axis = axis_of(node, 1, at.rank(node.outputs[0]))
    source: ir.Value | None = None
    parts: list[Cut] = []
    for value in node.inputs:
        inner = at.producer(value, "Slice")
        taken = None if inner is None else cuts(inner, at)
        if inner is None or axis is None or taken is None or list(taken) != [axis]:
            return False
        if parts and inner.inputs[0] is not source:
            return False
        source = inner.inputs[0]
        parts.append(taken[axis])
    if axis is None or not _make_a_whole(parts, dim(at.dims(source), axis)):
        return False
    return hand_on(node, source, at)


def _make_a_whole(parts: list[Cut], size: int | None) -> bool:
    """Whether parts that follow one another take all of an axis of `size` (None: not known)."""
    if any(cut.step != 1 for cut in parts) or parts[0].start != 0:
        return False
    bounds = [cut.end for cut in parts[:-1]]
    if bounds != [cut.start for cut in parts[1:]] or bounds != sorted(bounds):
        return False
    # Counted from the front throughout, or from the end, they are in order whatever the size.
    if bounds[0] < 0 <= bounds[-1]:
        return False
    last = parts[-1]
    return last.is_open or (size is not None and last.end >= size)


def split_of_concat(node: ir.Node, at: Rewriter) -> bool:
    """A Split into what a Concat has joined gives the operands."""
    joined = at.producer(node.inputs[0], "Concat")
    if joined is None or len(joined.inputs) != len(node.outputs):
        return False
    rank = at.rank(joined.outputs[0])
    axis = axis_of(joined, 1, rank)
    if axis is None or axis != axis_of(node, 0, rank):
        return False
    for value, part in zip(joined.inputs, node.outputs, strict=True):
        size = dim(at.dims(value), axis)
        if size is None or size != dim(at.dims(part), axis):
            return False
    changed = False
    for value, part in zip(joined.inputs, node.outputs, strict=True):
        if value is not None and (part.uses() or part.is_graph_output()):
            changed = at.replace(part, value) or changed
    return changed


def merge_pads(node: ir.Node, at: Rewriter) -> bool:
    """Pads with the same constant, or with the edge, add up if none of them crops."""
    inner = at.producer(node.inputs[0], "Pad")
    if inner is None:
        return False
    modes = [one.attributes.get_string("mode", "constant") for one in (node, inner)]
    if modes[0] != modes[1] or modes[0] not in ("constant", "edge"):
        return False
    rank = at.rank(inner.inputs[0])
    one, other = _amounts(node, rank, at), _amounts(inner, rank, at)
    if one is None or other is None or not gives_way(inner, at, "Pad"):
        return False
    if min([*one, *other], default=0) < 0:
        raise DeclinedError("a Pad with a negative amount crops")
    if modes[0] == "constant" and not _same_padding(node, inner, at):
        raise DeclinedError("the Pads fill in different numbers")
    amounts = [a + b for a, b in zip(one, other, strict=True)]
    if at.opset < 11:
        kept = {"mode": modes[0], "value": node.attributes.get_float("value", 0.0)}
        at.become(node, "Pad", [inner.inputs[0]], {**kept, "pads": amounts})
        return True
    inputs = [inner.inputs[0], vector(at, amounts, f"{node.outputs[0].name}_pads", node)]
    if modes[0] == "constant" and len(node.inputs) > 2 and node.inputs[2] is not None:
        inputs.append(node.inputs[2])
    at.become(node, "Pad", inputs, {"mode": modes[0]})
    return True


def _amounts(node: ir.Node, rank: int | None, at: Rewriter) -> list[int] | None:
    """The amounts of a Pad for all axes, at their beginnings and at their ends."""
    pads = ints(node, at, 1, "pads", 11)
    axes = ints(node, at, 3, "axes", 18) if at.opset >= 18 else []
    if rank is None or pads is None or axes is None or at.opset < 2:
        return None
    places = normal(axes, rank) if len(node.inputs) > 3 and node.inputs[3] else list(range(rank))
    if places is None or len(pads) != 2 * len(places) or len(set(places)) != len(places):
        return None
    amounts = [0] * (2 * rank)
    for index, axis in enumerate(places):
        amounts[axis] = pads[index]
        amounts[rank + axis] = pads[len(places) + index]
    return amounts


def _same_padding(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    """Whether two Pads fill in the same number, to the bit."""
    if at.opset < 11:
        one, other = (np.float64(n.attributes.get_float("value", 0.0)) for n in (node, inner))
        return bool(one.tobytes() == other.tobytes())
    numbers = [_padding(one, at) for one in (node, inner)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def _padding(node: ir.Node, at: Rewriter) -> bytes | None:
    """The number that a Pad fills in; None if it is not constant."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = at.dtype(node.inputs[0])
    if value is None:
        return None if dtype is None else bytes(np.zeros((), dtype.numpy()).nbytes)
    array = at.small(value)
    return None if array is None or array.size != 1 else array.tobytes()


def merge_expands(node: ir.Node, at: Rewriter) -> bool:
    """An Expand of an Expand goes to the shape that both give."""
    inner = at.before(node, 0, "Expand")
    if inner is None:
        return False
    first, then = constant_ints(inner.inputs[1], at), constant_ints(node.inputs[1], at)
    if first is None or then is None:
        return False
    try:
        shape = np.broadcast_shapes(tuple(first), tuple(then))
    except ValueError:
        return False
    value = vector(at, shape, f"{node.outputs[0].name}_shape", node)
    at.become(node, "Expand", [inner.inputs[0], value])
    return True


def merge_tiles(node: ir.Node, at: Rewriter) -> bool:
    """A Tile of a Tile repeats as often as both together."""
    inner = at.before(node, 0, "Tile")
    if inner is None or at.opset < 6:
        return False
    first, then = constant_ints(inner.inputs[1], at), constant_ints(node.inputs[1], at)
    if first is None or then is None or len(first) != len(then):
        return False
    repeats = [a * b for a, b in zip(first, then, strict=True)]
    value = vector(at, repeats, f"{node.outputs[0].name}_repeats", node)
    at.become(node, "Tile", [inner.inputs[0], value])
    return True
