"""Gathers next to a Gather, Concat or Unsqueeze: mostly what picks sizes out of shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt_passes.collapse_chains.common import axis_of, dim, gives_way, hand_on
from graphopt_passes.collapse_chains.slices import operand_with
from graphopt_passes.collapse_chains.views import view_axes


def gather_of_concat(node: ir.Node, at: Rewriter) -> bool:
    """A Gather that takes only from one operand of a Concat takes from that operand."""
    joined = at.producer(node.inputs[0], "Concat")
    indices = None if joined is None else at.small(node.inputs[1])
    if joined is None or indices is None or indices.size == 0:
        return False
    rank = at.rank(joined.outputs[0])
    axis, other = axis_of(node, 0, rank), axis_of(joined, 1, rank)
    if axis is None or axis != other:
        return False
    chosen = [int(index) for index in indices.reshape(-1)]
    total = dim(at.dims(joined.outputs[0]), axis)
    if min(chosen) < 0:
        if total is None:
            return False
        chosen = [index + total if index < 0 else index for index in chosen]
    found = (
        operand_with(joined, axis, min(chosen), max(chosen) + 1, at) if min(chosen) >= 0 else None
    )
    if found is None:
        return False
    operand, offset, _ = found
    if at.before(node, 0, "Concat") is None and at.producer(operand, "Unsqueeze") is None:
        return False
    moved = at.constant(
        (indices.reshape(-1) * 0 + [index - offset for index in chosen])
        .astype(indices.dtype)
        .reshape(indices.shape),
        f"{node.outputs[0].name}_indices",
        node,
    )
    at.become(node, "Gather", [operand, moved], {"axis": axis})
    return True


def merge_gathers(node: ir.Node, at: Rewriter) -> bool:
    """A Gather with constant indices of one with a constant list of indices is one Gather."""
    inner = at.producer(node.inputs[0], "Gather")
    if inner is None:
        return False
    first, then = at.small(inner.inputs[1]), at.small(node.inputs[1])
    if first is None or then is None or first.ndim != 1 or not gives_way(inner, at, "Gather"):
        return False
    axis = axis_of(node, 0, at.rank(node.inputs[0]))
    if axis is None or axis != axis_of(inner, 0, at.rank(inner.inputs[0])):
        return False
    count = len(first)
    if count == 0 or ((then < -count) | (then >= count)).any():
        return False
    indices = at.constant(np.asarray(first[then]), f"{node.outputs[0].name}_indices", node)
    at.become(node, "Gather", [inner.inputs[0], indices], {"axis": axis})
    return True


def gather_of_unsqueeze(node: ir.Node, at: Rewriter) -> bool:
    """A Gather of the one element of a new axis gives what there was before."""
    inner = at.producer(node.inputs[0], "Unsqueeze")
    index = None if inner is None else at.small(node.inputs[1])
    if inner is None or index is None or index.ndim != 0 or int(index) not in (0, -1):
        return False
    axes = view_axes(inner, at)
    axis = axis_of(node, 0, at.rank(node.inputs[0]))
    return axes is not None and axes == [axis] and hand_on(node, inner.inputs[0], at)


def unsqueeze_of_gather(node: ir.Node, at: Rewriter) -> bool:
    """An Unsqueeze of the axis that a Gather of one index has removed is a Gather of a list."""
    inner = at.producer(node.inputs[0], "Gather")
    index = None if inner is None else at.small(inner.inputs[1])
    if inner is None or index is None or index.ndim != 0:
        return False
    axes = view_axes(node, at)
    axis = axis_of(inner, 0, at.rank(inner.inputs[0]))
    if axis is None or axes != [axis] or not gives_way(inner, at, "Unsqueeze"):
        return False
    indices = at.constant(index.reshape(1), f"{node.outputs[0].name}_indices", node)
    at.become(node, "Gather", [inner.inputs[0], indices], {"axis": axis})
    return True


def concat_of_gathers(node: ir.Node, at: Rewriter) -> bool:
    """Neighbours in a Concat that gather lists from one source are one Gather of both lists."""
    rank = at.rank(node.outputs[0])
    axis = axis_of(node, 1, rank)
    if axis is None or len(node.inputs) < 2:
        return False
    for index in range(1, len(node.inputs)):
        left, right = (at.before(node, place, "Gather") for place in (index - 1, index))
        if left is None or right is None or left.inputs[0] is not right.inputs[0]:
            continue
        lists = [_gathered(one, axis, at) for one in (left, right)]
        if lists[0] is None or lists[1] is None:
            continue
        both = at.constant(
            np.concatenate([lists[0], lists[1]]).astype(np.int64),
            f"{left.outputs[0].name}_indices",
            node,
        )
        merged = at.insert(
            node, "Gather", [left.inputs[0], both], {"axis": axis}, base=left.outputs[0].name
        )
        rest = [*node.inputs[: index - 1], merged, *node.inputs[index + 1 :]]
        at.become(node, "Concat", rest, {"axis": axis})
        return True
    return False


def _gathered(node: ir.Node, axis: int, at: Rewriter) -> np.ndarray | None:
    """The constant list that `node` gathers along `axis`."""
    indices = at.small(node.inputs[1])
    if indices is None or indices.ndim != 1:
        return None
    return indices if axis_of(node, 0, at.rank(node.inputs[0])) == axis else None
