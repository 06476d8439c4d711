"""Squeeze and Unsqueeze that meet another view on the far side of a Transpose."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.rewriting import Rewriter
from graphopt_passes.collapse_chains.common import vector
from graphopt_passes.collapse_chains.transposes import permutation
from graphopt_passes.collapse_chains.views import VIEWS, is_view, shape_between, view_axes


def merge_across_transpose(node: ir.Node, at: Rewriter) -> bool:
    """View, Transpose, Squeeze or Unsqueeze: the first view can give the dimensions of size 1."""
    middle = at.before(node, 0, "Transpose")
    first = None if middle is None else at.before(middle, 0, *VIEWS)
    if middle is None or first is None or not is_view(first, at):
        return False
    axes, perm = view_axes(node, at), permutation(middle, at)
    dims, between = at.dims(first.inputs[0]), at.dims(first.outputs[0])
    if axes is None or perm is None or dims is None or between is None:
        return False
    if len(perm) != len(between) or not at.has_operator("Reshape", 5):
        return False
    if node.op_type == "Unsqueeze":
        wanted, perm = _with_ones(between, perm, axes)
    else:
        wanted, perm = _without(between, perm, [perm[axis] for axis in axes])
    target = shape_between(dims, wanted, (first,), at)
    if target is None:
        return False
    shape = vector(at, target, f"{first.outputs[0].name}_shape", node)
    if perm == sorted(perm):
        at.become(node, "Reshape", [first.inputs[0], shape])
        return True
    view = at.insert(
        node, "Reshape", [first.inputs[0], shape], base=f"{first.outputs[0].name}_reshape"
    )
    at.become(node, "Transpose", [view], {"perm": perm})
    return True


def _with_ones(dims: Dims, perm: Sequence[int], axes: Sequence[int]) -> tuple[Dims, list[int]]:
    """`dims` with a 1 at the end for each of `axes` of the result, and the perm from there."""
    rest, ones = iter(perm), iter(range(len(dims), len(dims) + len(axes)))
    rank = len(dims) + len(axes)
    wanted = (*dims, *(1 for _ in axes))
    return wanted, [next(ones) if axis in axes else next(rest) for axis in range(rank)]


def _without(dims: Dims, perm: Sequence[int], gone: Sequence[int]) -> tuple[Dims, list[int]]:
    """`dims` without the axes `gone`, and the perm from there."""
    left = [axis for axis in range(len(dims)) if axis not in gone]
    return tuple(dims[axis] for axis in left), [
        left.index(axis) for axis in perm if axis not in gone
    ]


def merge_before_transpose(node: ir.Node, at: Rewriter) -> bool:
    """Squeeze or Unsqueeze, Transpose, view: the last view can give the dimensions of size 1."""
    middle = at.before(node, 0, "Transpose")
    first = None if middle is None else at.before(middle, 0, "Squeeze", "Unsqueeze")
    if middle is None or first is None or not is_view(node, at):
        return False
    axes, perm = view_axes(first, at), permutation(middle, at)
    dims, wanted = at.dims(first.inputs[0]), at.dims(node.outputs[0])
    if axes is None or perm is None or dims is None or wanted is None:
        return False
    if not at.has_operator("Reshape", 5):
        return False
    if first.op_type == "Unsqueeze":
        left = [axis for axis in range(len(perm)) if axis not in axes]
        perm = [left.index(axis) for axis in perm if axis not in axes]
    else:
        left = [axis for axis in range(len(dims)) if axis not in axes]
        perm = [*(left[axis] for axis in perm), *axes]
    if sorted(perm) != list(range(len(dims))):
        return False
    target = shape_between(tuple(dims[axis] for axis in perm), wanted, (node,), at)
    if target is None:
        return False
    source = first.inputs[0]
    if perm != sorted(perm):
        source = at.insert(
            node, "Transpose", [source], {"perm": perm}, base=f"{middle.outputs[0].name}_transpose"
        )
    shape = vector(at, target, f"{node.outputs[0].name}_shape", node)
    at.become(node, "Reshape", [source, shape])
    return True
