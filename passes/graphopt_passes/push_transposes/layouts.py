"""What becomes of a node when its operands are laid out another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting import Rewriter
from graphopt_passes.push_transposes import operators as ops
from graphopt_passes.push_transposes.perms import Perm, with_ones, without

# A larger constant that others use as well is not stored twice.
LARGE_BYTES = 1 << 16


@dataclass(frozen=True)
class Layout:
    """A node on operands that lack a Transpose, such that its outputs lack one too.

    An operand or output that now is Transpose(v, perm) is v.
    """

    inputs: Sequence[Perm | None]
    """The perm by input; None for one that stays as it is."""
    outputs: Sequence[Perm]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """The attributes that change."""
    constants: Mapping[int, list[int]] = field(default_factory=dict)
    """The inputs that become another list of integers."""


Finder = Callable[[ir.Node, Perm, Rewriter], "Layout | None"]


def layout_below(node: ir.Node, index: int, perm: Perm, at: Rewriter) -> Layout | None:
    """The layout of `node` if input `index` is Transpose(v, perm); None if it has none."""
    if index not in ops.data_inputs(node):
        return None
    if (finder := RESIZING.get(node.op_type)) is not None:
        return finder(node, perm, at)
    return _same_layout(node, node.inputs[index], perm, at)


def layout_above(node: ir.Node, perm: Perm, at: Rewriter) -> Layout | None:
    """The layout of `node` if its outputs are Transpose(v, perm); None if it has none."""
    if node.op_type == "Unsqueeze":
        return _unsqueeze_above(node, perm, at)
    if node.op_type in RESIZING and not ops.keeps_rank(node, at):
        return None
    if node.op_type == "Expand" and at.rank(node.inputs[0]) != len(perm):
        return None
    return _same_layout(node, None, perm, at)


def _same_layout(node: ir.Node, source: ir.Value | None, perm: Perm, at: Rewriter) -> Layout | None:
    """That of an operator all of whose operands and outputs have one layout."""
    if not ops.is_movable(node, at):
        return None
    change = ops.change(node, perm, at)
    if change is None:
        return None
    data = ops.data_inputs(node)
    inputs: list[Perm | None] = [None] * len(node.inputs)
    for index in data:
        value = node.inputs[index]
        if value is None:
            continue
        fits = _operand(value, value is source, len(data) == 1, perm, at)
        if fits is None:
            return None
        inputs[index] = perm if fits else None
    attributes, constants = change
    return Layout(inputs, [perm] * len(node.outputs), attributes, constants)


def _operand(
    value: ir.Value, is_source: bool, is_only: bool, perm: Perm, at: Rewriter
) -> bool | None:
    """Whether `value` must be laid out anew (False: it fits as it is); None if it cannot be."""
    if is_source or is_only:
        return True
    dims = at.dims(value)
    if dims is None or len(dims) > len(perm):
        return None
    if all(dim == 1 for dim in dims):
        return False
    tensor = constant_tensor(value)
    if tensor is not None:
        return None if tensor.nbytes > LARGE_BYTES and len(value.uses()) > 1 else True
    return True if len(dims) == len(perm) else None


def laid_out(array: np.ndarray, perm: Perm) -> np.ndarray:
    """The constant v of which `array` is Transpose(v, perm); of a lower rank, it is broadcast."""
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    places = sorted(range(len(perm)), key=perm.__getitem__)
    return np.ascontiguousarray(full.transpose(places))


def _removal(node: ir.Node, perm: Perm, at: Rewriter) -> Layout | None:
    """A reduction, or a Squeeze: it may remove axes."""
    keeps = ops.keeps_rank(node, at)
    if keeps:
        return _same_layout(node, node.inputs[0], perm, at)
    axes = ops.axes(node, len(perm), at)
    change = ops.change(node, perm, at)
    if axes is None or change is None or not ops.is_movable(node, at):
        return None
    inputs: list[Perm | None] = [None] * len(node.inputs)
    inputs[0] = perm
    return Layout(inputs, [without(perm, axes)], *change)


def _unsqueeze_below(node: ir.Node, perm: Perm, at: Rewriter) -> Layout | None:
    count = len(ops.raw_axes(node, at) or ())
    axes = ops.axes(node, len(perm) + count, at)
    if not axes:
        return None
    inputs: list[Perm | None] = [None] * len(node.inputs)
    inputs[0] = perm
    return Layout(inputs, [with_ones(perm, axes)])


def _unsqueeze_above(node: ir.Node, perm: Perm, at: Rewriter) -> Layout | None:
    axes = ops.axes(node, len(perm), at)
    if not axes:
        return None
    inputs: list[Perm | None] = [None] * len(node.inputs)
    inputs[0] = without(perm, axes)
    places = sorted(perm[axis] for axis in axes)
    if at.opset < 13:
        return Layout(inputs, [perm], {"axes": places})
    return Layout(inputs, [perm], {}, {1: places})


RESIZING: Mapping[str, Finder] = {
    **dict.fromkeys((*ops.REDUCTIONS, *ops.ARGUMENTS, "Squeeze", "Gather"), _removal),
    "Unsqueeze": _unsqueeze_below,
}
