"""Chains of views: operators that give the same elements in the same order another shape."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.ir.facts import Dim, Dims, Expr, product
from graphopt.ir.facts.dimension import divide
from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import (
    constant_ints,
    gives_way,
    hand_on,
    ints,
    normal,
    vector,
)
from graphopt_passes.collapse_chains.transposes import permutation

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
ALL_VIEWS = (*VIEWS, "Transpose")


def merge_views(node: ir.Node, at: Rewriter) -> bool:
    """A view of a view is one view of the source, or the source itself."""
    inner = at.producer(node.inputs[0], *ALL_VIEWS)
    if inner is None or (node.op_type == inner.op_type == "Transpose"):
        return False
    if not (is_view(inner, at) and is_view(node, at)):
        return False
    if _undoes(node, inner, at):
        return hand_on(node, inner.inputs[0], at)
    if not gives_way(inner, at, *ALL_VIEWS):
        return False
    if _merge_axes(node, inner, at) or _bypass(node, inner, at):
        return True
    target = constant_shape(node, inner.inputs[0], (node, inner), at)
    if target is None:
        if at.dims(inner.inputs[0]) is None or at.dims(node.outputs[0]) is None:
            return False
        raise DeclinedError("no constant shape says what both do for every size of the input")
    shape = vector(at, target, f"{node.outputs[0].name}_shape", node)
    at.become(node, "Reshape", [inner.inputs[0], shape])
    return True


def is_view(node: ir.Node, at: Rewriter) -> bool:
    """Whether `node` keeps the order of the elements: a Transpose does if it moves ones only."""
    if node.op_type == "Reshape":
        return at.opset >= 5 and len(node.inputs) == 2
    if node.op_type != "Transpose":
        return True
    dims = at.dims(node.inputs[0])
    perm = permutation(node, at)
    if dims is None or perm is None:
        return False
    moved = [axis for axis in perm if dims[axis] != 1]
    return moved == sorted(moved)


def _undoes(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    """Whether `node` gives the shape that the source of `inner` has."""
    pair = {node.op_type, inner.op_type}
    if pair == {"Squeeze", "Unsqueeze"}:
        outer_axes, inner_axes = view_axes(node, at), view_axes(inner, at)
        if outer_axes and inner_axes and sorted(outer_axes) == sorted(inner_axes):
            return True
    dims = at.dims(inner.inputs[0])
    return dims is not None and dims == at.dims(node.outputs[0])


def view_axes(node: ir.Node, at: Rewriter) -> list[int] | None:
    """The axes of a Squeeze or Unsqueeze, from the front; None if they are not known or none."""
    axes = ints(node, at, 1, "axes", 13)
    if not axes or len(set(axes)) != len(axes):
        return None
    rank = at.rank(node.inputs[0])
    if rank is not None and node.op_type == "Unsqueeze":
        rank += len(axes)
    return normal(axes, rank)


def _merge_axes(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    """Squeeze and Unsqueeze of one another, where one of them says it all."""
    if not {node.op_type, inner.op_type} <= {"Squeeze", "Unsqueeze"}:
        return False
    outer, first = view_axes(node, at), view_axes(inner, at)
    if outer is None or first is None:
        return False
    if node.op_type == inner.op_type == "Unsqueeze":
        return _become(node, "Unsqueeze", inner, [*outer, *_widened(first, outer)], at)
    if node.op_type == inner.op_type == "Squeeze":
        return _become(node, "Squeeze", inner, [*first, *_widened(outer, first)], at)
    if node.op_type == "Squeeze" and set(outer) < set(first):
        return _become(node, "Unsqueeze", inner, _narrowed(first, outer), at)
    if node.op_type == "Squeeze" and set(first) < set(outer):
        return _become(node, "Squeeze", inner, _narrowed(outer, first), at)
    return False


def _widened(axes: Sequence[int], others: Sequence[int]) -> list[int]:
    """Where `axes` are once `others` have been put in."""
    count = max(axes) + len(others) + 1
    places = [axis for axis in range(count) if axis not in others]
    return [places[axis] for axis in axes]


def _narrowed(axes: Sequence[int], others: Sequence[int]) -> list[int]:
    """Where those of `axes` that are none of `others` are once `others` have gone."""
    return [axis - sum(other < axis for other in others) for axis in axes if axis not in others]


def _become(node: ir.Node, op_type: str, inner: ir.Node, axes: list[int], at: Rewriter) -> bool:
    source, axes = inner.inputs[0], sorted(axes)
    if not at.has_operator(op_type, 1):
        return False
    if at.opset < 13:
        at.become(node, op_type, [source], {"axes": axes})
    else:
        value = vector(at, axes, f"{node.outputs[0].name}_axes", node)
        at.become(node, op_type, [source, value])
    return True


def _bypass(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    """A Reshape that means the same for the source of `inner` takes that, its shape stays."""
    if node.op_type != "Reshape":
        return False
    source = inner.inputs[0]
    if not node.attributes.get_int("allowzero", 0):
        items = at.facts[node.inputs[1]].items
        given, taken = at.dims(inner.outputs[0]), at.dims(source)
        if items is None or not all(
            _means_the_same(item, axis, given, taken) for axis, item in enumerate(items)
        ):
            return False
    at.set_input(node, 0, source)
    return True


def _means_the_same(item: Dim | None, axis: int, given: Dims | None, taken: Dims | None) -> bool:
    """Whether `item` at `axis` of a Reshape's shape is no 0, or one that copies the same.

    Args:
        given: the dimensions of what is reshaped, None if not known.
        taken: those of what is to be reshaped instead.
    """
    if isinstance(item, int) and item != 0:
        return True
    if item is None or given is None or taken is None:
        return False
    if axis >= len(given):
        return True  # a 0 there ends the run
    if axis >= len(taken):
        return False
    if given[axis] == taken[axis]:
        return True
    # Where a product is 0 because of its factor, both copies are 0.
    return isinstance(item, Expr) and all(
        divide(dims[axis], item) is not None for dims in (given, taken)
    )


def constant_shape(
    node: ir.Node, source: ir.Value | None, chain: Sequence[ir.Node], at: Rewriter
) -> list[int] | None:
    """The shape with which a Reshape of `source` gives what `node` gives; None if there is none.

    Args:
        chain: the views between `source` and the output of `node`.
    """
    dims, wanted = at.dims(source), at.dims(node.outputs[0])
    if dims is None or wanted is None or not at.has_operator("Reshape", 5):
        return None
    return shape_between(dims, wanted, chain, at)


def shape_between(
    dims: Dims, wanted: Dims, chain: Sequence[ir.Node], at: Rewriter
) -> list[int] | None:
    """`constant_shape` of a value of `dims` that is to become one of `wanted` dimensions.

    0 stands for a dimension that is in the same place already, -1 for one that cannot be told. With
    -1, a Reshape of a value without elements fails if another dimension is 0 too: that is right
    only where the chain would fail as well.
    """
    target = [
        item
        if isinstance(item, int) and item > 0
        else (0 if axis < len(dims) and dims[axis] == item else -1)
        for axis, item in enumerate(wanted)
    ]
    if target.count(-1) > 1:
        return None
    if -1 in target:
        others = _others(wanted, target.index(-1))
        fails = all(item != 0 for item in target) or any(
            divide(left_over, others) is not None
            for left_over in (_left_over(view, at) for view in chain)
            if left_over is not None
        )
        if not fails:
            return None
    return target


def _left_over(node: ir.Node, at: Rewriter) -> Dim | None:
    """What a Reshape to a shape with -1 divides the number of elements by; None of others."""
    if node.op_type != "Reshape":
        return None
    shape, dims = constant_ints(node.inputs[1], at), at.dims(node.outputs[0])
    if shape is None or dims is None or shape.count(-1) != 1:
        return None
    return _others(dims, shape.index(-1))


def _others(dims: Dims, axis: int) -> Dim:
    return product((*dims[:axis], *dims[axis + 1 :]))
