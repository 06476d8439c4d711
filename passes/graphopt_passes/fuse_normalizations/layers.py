"""LayerNormalization, RMSNormalization and InstanceNormalization."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, require_private
from graphopt_passes.fuse_normalizations.groups import grouped
from graphopt_passes.fuse_normalizations.moments import (
    Normalized,
    normalized,
    normalized_sum,
)
from graphopt_passes.fuse_normalizations.parameters import (
    BY_AXIS,
    as_parameter,
    attributes_of,
    parameter_axes,
    static,
)

MAX_ONES = 1 << 16
"""A scale of ones that the operator asks for and the graph has not may be this large."""

_SINGLE = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def layer_normalization(node: ir.Node, at: Rewriter) -> bool:
    """(x - mean) / sqrt(var + epsilon) over the last axes becomes LayerNormalization."""
    found = normalized(node, at)
    if found is None or not found.centered or _is_instance(node, found, at):
        return False
    return _fuse(node, found, "LayerNormalization", 17, at)


def rms_normalization(node: ir.Node, at: Rewriter) -> bool:
    """x / sqrt(mean(x^2) + epsilon) over the last axes becomes RMSNormalization."""
    found = normalized(node, at)
    if found is None or found.centered:
        return False
    return _fuse(node, found, "RMSNormalization", 23, at)


def instance_normalization(node: ir.Node, at: Rewriter) -> bool:
    """(x - mean) / sqrt(var + epsilon) over the spatial axes becomes InstanceNormalization."""
    found = normalized(node, at)
    if found is None or not found.centered or not _is_instance(node, found, at):
        return False
    return _fuse(node, found, "InstanceNormalization", 6, at)


def split_normalization(node: ir.Node, at: Rewriter) -> bool:
    """x * inverse + (bias - mean * inverse) over the last axes becomes LayerNormalization."""
    found = normalized_sum(node, at)
    return found is not None and _fuse(node, found, "LayerNormalization", 17, at)


def _is_instance(node: ir.Node, found: Normalized, at: Rewriter) -> bool:
    """Whether the mean is over the spatial axes of channels, not over features that come last.

    What follows tells: a scale along one or the other. A LayerNormalization needs a scale as large
    as all its axes, so of several axes it is made only if such a scale is there.
    """
    rank = at.rank(found.x) or 0
    if rank < 3 or found.axes != tuple(range(2, rank)):
        return False
    user = at.after(node, "Mul", "Reshape")
    if user is not None and user.op_type == "Reshape":
        grouping = at.producer(found.x, "Reshape")
        x = None if grouping is None else grouping.inputs[0]
        return rank > 3 or grouped(x, found.x, user.outputs[0], at) is not None
    if user is None or found.scale is not None:
        other = found.scale
    else:
        other = user.inputs[0] if user.inputs[1] is node.outputs[0] else user.inputs[1]
    by_channel = _runs_along(other, found, range(1, 2), at)
    by_feature = _runs_along(other, found, range(2, rank), at)
    return by_channel and not by_feature if rank == 3 else by_channel or not by_feature


def _runs_along(value: ir.Value | None, found: Normalized, axes: range, at: Rewriter) -> bool:
    dims = at.dims(found.x) or ()
    sizes = static(dims, axes)
    return sizes is not None and as_parameter(value, len(dims), axes, sizes, at) is not None


def _fuse(node: ir.Node, found: Normalized, op_type: str, since: int, at: Rewriter) -> bool:
    dims, dtype = at.dims(found.x), at.dtype(found.x)
    if dims is None or at.dims(node.outputs[0]) != dims:
        return False
    if op_type in BY_AXIS and found.axes != tuple(range(found.axes[0], len(dims))):
        raise DeclinedError(f"the axes are not the last ones, as {op_type} would have them")
    at.require_operator(op_type, since, dtype)
    if dtype not in _SINGLE:
        raise DeclinedError(f"{op_type} may compute its statistics in float32, less than double")
    axes = parameter_axes(op_type, found.axes[0], len(dims))
    sizes = static(dims, axes)
    if sizes is None:
        raise DeclinedError(f"the size of the scale of {op_type} is not known: it is dynamic")
    scale = _scale(found, len(dims), axes, sizes, at)
    bias = as_parameter(found.bias, len(dims), axes, sizes, at)
    if scale is None or (bias is None and found.bias is not None):
        return False
    require_private(node, found.ends)
    _become(node, found, op_type, scale, bias, at)
    return True


def _scale(
    found: Normalized, rank: int, axes: range, sizes: tuple[int, ...], at: Rewriter
) -> np.ndarray | None:
    if found.scale is not None:
        return as_parameter(found.scale, rank, axes, sizes, at)
    if math.prod(sizes) > MAX_ONES:
        raise DeclinedError("it would need a large scale of nothing but ones")
    dtype = at.dtype(found.x)
    return None if dtype is None else np.ones(sizes, dtype.numpy())


def _become(
    node: ir.Node,
    found: Normalized,
    op_type: str,
    scale: np.ndarray,
    bias: np.ndarray | None,
    at: Rewriter,
) -> None:
    name = node.outputs[0].name
    inputs = [found.x, at.constant(scale, f"{name}_scale", node)]
    attributes: dict[str, float | int] = {"epsilon": found.epsilon}
    if op_type in BY_AXIS:
        attributes["axis"] = found.axes[0] - (at.rank(found.x) or 0)
        attributes["stash_type"] = int(ir.DataType.FLOAT)
    elif bias is None:
        bias = np.zeros(scale.shape, scale.dtype)
    if bias is not None:
        inputs.append(at.constant(bias, f"{name}_bias", node))
    at.become(node, op_type, inputs, attributes)


def narrow(node: ir.Node, at: Rewriter) -> bool:
    """A normalization between Casts to float32 and back does without: it computes in float32."""
    norm = at.before(node, 0, *BY_AXIS)
    wide = None if norm is None else at.producer(norm.inputs[0], "Cast")
    if norm is None or wide is None or norm.attributes.get_int("stash_type", 1) != 1:
        return False
    x, dtype = wide.inputs[0], at.dtype(node.outputs[0])
    if x is None or dtype not in _SINGLE or at.dtype(x) != dtype or dtype == ir.DataType.FLOAT:
        return False
    if at.dtype(norm.inputs[0]) != ir.DataType.FLOAT:
        return False
    parameters = [_narrowed(value, dtype, at) for value in norm.inputs[1:]]
    if any(array is None for array in parameters):
        return False
    at.require_operator(norm.op_type, 17, dtype)
    name = node.outputs[0].name
    held = [
        at.constant(array, f"{name}_{kind}", node)
        for kind, array in zip(("scale", "bias"), parameters, strict=False)
        if array is not None
    ]
    at.become(node, norm.op_type, [x, *held], attributes_of(norm))
    return True


def _narrowed(value: ir.Value | None, dtype: ir.DataType, at: Rewriter) -> np.ndarray | None:
    """The constant `value` in a 16-bit type, if that changes nothing."""
    array = at.array(value)
    if array is None:
        return None
    with np.errstate(over="ignore"):
        narrowed: np.ndarray = array.astype(dtype.numpy())
    return narrowed if np.array_equal(narrowed.astype(array.dtype), array) else None
