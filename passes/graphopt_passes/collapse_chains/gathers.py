"""Gathers of few indices: mostly what picks sizes out of shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter, Rule
from graphopt_passes.collapse_chains.links import ahead, vector


def _unsqueeze_of_gather(node: ir.Node, at: Rewriter) -> bool:
    """Unsqueeze of the axis that a Gather of one index has removed -> Gather of a list."""
    found = ahead(node, at, "Gather")
    index = None if found is None else at.small(found.inputs[1])
    if found is None or index is None or index.ndim != 0:
        return False
    axis = _axis(found, 0, at.rank(found.inputs[0]))
    axes, rank = at.ints(node, 1, "axes", 13), at.rank(node.outputs[0])
    if axis is None or axes is None or len(axes) != 1 or rank is None or axes[0] % rank != axis:
        return False
    at.become(
        node, "Gather", [found.inputs[0], vector([int(index)], "indices", node, at)], {"axis": axis}
    )
    return True


def _concat_of_gathers(node: ir.Node, at: Rewriter) -> bool:
    """Neighbours in a Concat that gather lists from one source -> one Gather of both lists."""
    axis = _axis(node, 1 if at.opset < 4 else 0, at.rank(node.outputs[0]))
    if axis is None:
        return False
    for index in range(1, len(node.inputs)):
        pair = [at.before(node, place, "Gather") for place in (index - 1, index)]
        lists = [None if one is None else _gathered(one, axis, at) for one in pair]
        left, right = pair
        if left is None or right is None or left.inputs[0] is not right.inputs[0]:
            continue
        if lists[0] is None or lists[1] is None:
            continue
        both = [int(i) for i in np.concatenate([lists[0], lists[1]])]
        indices = at.constant(np.array(both, np.int64), f"{left.outputs[0].name}_indices", node)
        base = left.outputs[0].name
        merged = at.insert(node, "Gather", [left.inputs[0], indices], {"axis": axis}, base=base)
        rest = [*node.inputs[: index - 1], merged, *node.inputs[index + 1 :]]
        at.become(node, "Concat", rest, {"axis": axis})
        return True
    return False


def _gathered(node: ir.Node, axis: int, at: Rewriter) -> np.ndarray | None:
    """The constant list that `node` gathers along `axis`."""
    indices = at.small(node.inputs[1])
    if indices is None or indices.ndim != 1:
        return None
    return indices if _axis(node, 0, at.rank(node.inputs[0])) == axis else None


def _axis(node: ir.Node, default: int, rank: int | None) -> int | None:
    axis: int = node.attributes.get_int("axis", default)
    return None if rank is None or not -rank <= axis < rank else axis % rank


RULES = (
    Rule("unsqueeze-of-gather", ("Unsqueeze",), _unsqueeze_of_gather),
    Rule("concat-of-gathers", ("Concat",), _concat_of_gathers),
)
