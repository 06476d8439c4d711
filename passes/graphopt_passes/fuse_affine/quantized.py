"""The scales of quantized weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.norm import parameter
from graphopt_passes.fuse_affine.scaling import Layout, cast


def multiplied_scales(
    node: ir.Node, layout: Layout, factor: np.ndarray, axis: int, at: Rewriter
) -> np.ndarray:
    """The scales of the DequantizeLinear `node` such that what it gives is multiplied.

    The integers stay. `factor` is [channels] or [1], along `axis` of the layout of what it gives.

    Raises:
        DeclinedError: if a factor is not positive, or there is no scale for each channel.
    """
    if not at.is_constant(node.inputs[0]):
        raise DeclinedError("the weight is quantized at run time")
    if not (factor > 0).all():
        raise DeclinedError("quantized weights would need a scale that is not positive")
    scales = parameter(node.inputs[1], "the scale of the quantized weight")
    if (factor == factor[0]).all():
        exact = scales.astype(np.float64) * factor[0]
    else:
        exact = scales.astype(np.float64) * _spread(node, scales, layout, factor, axis, at)
    if (exact < np.finfo(scales.dtype).tiny).any():
        raise DeclinedError(f"the folded scales would be too small for {scales.dtype}")
    return cast(exact, scales.dtype)


def _spread(
    node: ir.Node,
    scales: np.ndarray,
    layout: Layout,
    factor: np.ndarray,
    axis: int,
    at: Rewriter,
) -> np.ndarray:
    """`factor` in a shape that broadcasts to `scales`."""
    dims = at.facts[node.inputs[0]].static_dims
    if dims is None or (layout.grouped and layout.view[0] != 1 and axis == 2):
        raise DeclinedError("the channels of the quantized weight are not on one axis")
    # The axis of the weight on which the channels are: both views of it begin with [lead * one].
    place = (0 if axis == 1 else 1) if layout.grouped else len(dims) - 3 + axis
    if scales.ndim == len(dims) and scales.shape[place] == factor.size:  # in blocks
        return factor.reshape([-1 if d == place else 1 for d in range(len(dims))])
    along: int = node.attributes.get_int("axis", 1)
    if scales.shape == factor.shape and along % len(dims) == place:
        return factor
    raise DeclinedError("the quantized weight has no scale for each channel")
