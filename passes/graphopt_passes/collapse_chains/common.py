"""What the rules for chains share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.rewriting import Rewriter

# A value with more users is left alone: whether it goes would depend on all of them.
MAX_USERS = 8


def hand_on(node: ir.Node, value: ir.Value | None, at: Rewriter) -> bool:
    """Lets the users of `node` use the equal `value`; an Identity stays where it cannot go.

    It cannot where it makes a graph output of an input, a constant or another output.
    """
    if value is None:
        return False
    if not at.replace(node.outputs[0], value):
        at.become(node, "Identity", [value])
    return True


def gives_way(inner: ir.Node, at: Rewriter, *op_types: str) -> bool:
    """Whether `inner` goes once all its users, which are of `op_types`, use its input instead."""
    value = inner.outputs[0]
    uses = value.uses()
    if value.is_graph_output() or len(uses) > MAX_USERS or not at.is_lone(inner):
        return False
    return all(
        use.idx == 0 and use.node.graph is inner.graph and at.is_op(use.node, *op_types)
        for use in uses
    )


def ints(node: ir.Node, at: Rewriter, index: int, attribute: str, since: int) -> list[int] | None:
    """A constant list of integers that became input `index` in opset `since`.

    Empty if it is left out; None if it is not constant, or written as in another opset, such as in
    a function that imports one.
    """
    if at.opset < since:
        return list(node.attributes.get_ints(attribute, ())) if len(node.inputs) <= 1 else None
    if attribute in node.attributes:
        return None
    value = node.inputs[index] if index < len(node.inputs) else None
    return [] if value is None else constant_ints(value, at)


def constant_ints(value: ir.Value | None, at: Rewriter) -> list[int] | None:
    """The elements of a small constant of integers, of any rank."""
    array = at.small(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(item) for item in array.reshape(-1)]


def normal(axes: Sequence[int], rank: int | None) -> list[int] | None:
    """`axes`, counted from the front; None if they are out of range, or the rank is needed."""
    if rank is None:
        return list(axes) if all(axis >= 0 for axis in axes) else None
    if not all(-rank <= axis < rank for axis in axes):
        return None
    return [axis % rank for axis in axes]


def axis_of(node: ir.Node, default: int, rank: int | None) -> int | None:
    """The attribute "axis" of `node`, counted from the front."""
    axes = normal([node.attributes.get_int("axis", default)], rank)
    return axes[0] if axes else None


def dim(dims: Dims | None, axis: int) -> int | None:
    """The dimension at `axis` if it is a known number."""
    found = dims[axis] if dims is not None and axis < len(dims) else None
    return found if isinstance(found, int) else None


def vector(at: Rewriter, items: Sequence[int], base: str, before: ir.Node) -> ir.Value:
    """A constant int64 vector."""
    return at.constant(np.array(items, np.int64), base, before)
