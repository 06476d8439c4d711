"""The scale and bias of normalization operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.ir.facts import Dims
from graphopt.rewriting import Rewriter

BY_CHANNEL = ("GroupNormalization", "InstanceNormalization")
BY_AXIS = ("LayerNormalization", "RMSNormalization")
NORMALIZATIONS = (*BY_AXIS, *BY_CHANNEL)


def parameter_axes(op_type: str, axis: int, rank: int) -> range:
    """The axes of x that a parameter of `op_type` runs along."""
    if op_type in BY_CHANNEL:
        return range(1, 2)
    return range(axis % rank, rank)


def static(dims: Dims, axes: Sequence[int]) -> tuple[int, ...] | None:
    """The sizes of `axes`, if all are known numbers."""
    sizes = tuple(dim for axis in axes if isinstance(dim := dims[axis], int))
    return sizes if len(sizes) == len(axes) else None


def as_parameter(
    value: ir.Value | None, rank: int, axes: range, sizes: tuple[int, ...], at: Rewriter
) -> np.ndarray | None:
    """The constant `value`, which is broadcast against x of `rank`, as a parameter of shape
    `sizes`; None if it is no constant or runs along other axes than `axes`."""
    tensor = constant_tensor(value)
    if tensor is None or len(tensor.shape) > rank:
        return None
    shape = (1,) * (rank - len(tensor.shape)) + tuple(int(dim) for dim in tensor.shape.numpy())
    if any(dim != 1 for axis, dim in enumerate(shape) if axis not in axes):
        return None
    own = tuple(shape[axis] for axis in axes)
    if any(dim not in (1, size) for dim, size in zip(own, sizes, strict=True)):
        return None
    array = at.array(value)
    return None if array is None else np.broadcast_to(array.reshape(own), sizes).copy()


def scale_into(node: ir.Node, at: Rewriter) -> bool:
    """The Mul behind a normalization becomes its scale."""
    if at.opset < 7:
        return False
    return any(_scale(node, index, at) for index in (0, 1))


def _scale(node: ir.Node, index: int, at: Rewriter) -> bool:
    norm = at.before(node, index, *NORMALIZATIONS)
    place = None if norm is None else _place(norm, at)
    if norm is None or place is None:
        return False
    rank, axes, sizes = place
    factor, bias = node.inputs[1 - index], _bias(norm)
    scale = at.array(norm.inputs[1])
    number = as_parameter(factor, rank, axes, sizes, at)
    shift = None if bias is None else at.array(bias)
    if scale is None or scale.shape != sizes or (bias is not None and shift is None):
        return False
    plain = bool((scale == 1).all()) and (shift is None or not shift.any())
    if number is None:
        if not plain or norm.op_type in BY_CHANNEL or at.dims(factor) != sizes:
            return False
        _become(node, norm, factor, bias, at)
        return True
    if not plain and number.dtype.itemsize < 4:
        return False  # a rounding in 16 bits more
    with np.errstate(all="ignore"):
        product, moved = scale * number, None if shift is None else shift * number
    if not _is_finite(product) or (moved is not None and not _is_finite(moved)):
        return False
    name = node.outputs[0].name
    if moved is not None and shift is not None and shift.any():
        bias = at.constant(moved, f"{name}_bias", node)
    _become(node, norm, at.constant(product, f"{name}_scale", node), bias, at)
    return True


def shift_into(node: ir.Node, at: Rewriter) -> bool:
    """The Add behind a normalization becomes its bias."""
    if at.opset < 7:
        return False
    return any(_shift(node, index, at) for index in (0, 1))


def _shift(node: ir.Node, index: int, at: Rewriter) -> bool:
    norm = at.before(node, index, "LayerNormalization", *BY_CHANNEL)
    place = None if norm is None else _place(norm, at)
    if norm is None or place is None:
        return False
    rank, axes, sizes = place
    addend, bias = node.inputs[1 - index], _bias(norm)
    shift = None if bias is None else at.array(bias)
    if bias is not None and (shift is None or shift.shape != sizes):
        return False
    plain = shift is None or not shift.any()
    number = as_parameter(addend, rank, axes, sizes, at)
    if number is None:
        if not plain or norm.op_type in BY_CHANNEL or at.dims(addend) != sizes:
            return False
        _become(node, norm, norm.inputs[1], addend, at)
        return True
    total = number if plain or shift is None else shift + number
    if not plain and (number.dtype.itemsize < 4 or not _is_finite(total)):
        return False
    held = at.constant(total, f"{node.outputs[0].name}_bias", node)
    _become(node, norm, norm.inputs[1], held, at)
    return True


def _place(norm: ir.Node, at: Rewriter) -> tuple[int, range, tuple[int, ...]] | None:
    """The rank of x, and the axes and sizes of the parameters of `norm`."""
    dims = at.dims(norm.inputs[0])
    axis: int = norm.attributes.get_int("axis", -1)
    if dims is None or not dims or not -len(dims) <= axis < len(dims):
        return None
    if norm.op_type == "GroupNormalization" and at.opset < 21:  # a scale for each group
        return None
    axes = parameter_axes(norm.op_type, axis, len(dims))
    sizes = static(dims, axes) if len(dims) > axes[0] else None
    return None if sizes is None else (len(dims), axes, sizes)


def _bias(norm: ir.Node) -> ir.Value | None:
    return norm.inputs[2] if len(norm.inputs) > 2 else None


def _become(
    node: ir.Node, norm: ir.Node, scale: ir.Value | None, bias: ir.Value | None, at: Rewriter
) -> None:
    inputs = [norm.inputs[0], scale, *([] if bias is None else [bias])]
    at.become(node, norm.op_type, inputs, attributes_of(norm))


def attributes_of(norm: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in norm.attributes.items()}


def _is_finite(array: np.ndarray) -> bool:
    return math.isfinite(float(np.abs(array.astype(np.float64)).sum()))
