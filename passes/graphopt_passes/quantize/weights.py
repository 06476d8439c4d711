"""Weights in few bits with a scale for each output channel, and the biases that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quantization import FORMATS, Format, quantize, ranges, symmetric_scale

Array = np.ndarray[Any, Any]

LARGEST_BIAS = 2**30
"""What a bias in int32 may be at most: the rest is for the products that are added to it."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight w ~ data * scale along one axis.

    Attributes:
        data: of the format's dtype and the weight's shape.
        scale: [channels], in the weight's dtype.
    """

    data: Array
    scale: Array


def quantize_weight(
    weight: Array,
    axis: int,
    limits: tuple[int, int],
    *,
    format: Format = FORMATS["int8"],
    least: Array | None = None,
) -> QuantizedWeight:
    """Quantizes `weight` (float32 or float16) with the largest magnitude of each channel kept.

    Args:
        axis: the axis of the channels.
        limits: the least and the greatest value to use.
        least: [channels], what each scale must be at least.

    Raises:
        ValueError: if a weight is NaN or infinite.
    """
    low, high = ranges(weight, axis)
    scale = symmetric_scale(np.maximum(-low, high), format, weight.dtype, limits)
    if least is not None:
        scale = np.maximum(scale, least.astype(scale.dtype))
    # The nearest values: a quotient rounded to float16 first would not always give them.
    data = quantize(weight, scale, None, format, axis=axis, limits=limits, precision=np.float32)
    return QuantizedWeight(data, scale)


def least_scale(bias: Array, data_scale: Array) -> Array:
    """The least scales of a weight with which its bias, in steps of both scales, fits int32.

    Of a channel that is all but zero, the scale would make the steps so small that it does not.
    """
    return np.abs(bias).astype(np.float64) / (float(data_scale) * LARGEST_BIAS)


def quantize_bias(bias: Array, data_scale: Array, scale: Array) -> QuantizedWeight:
    """A bias [channels] in int32, in steps of the scales of data and weight multiplied."""
    steps = data_scale.astype(np.float32) * scale.astype(np.float32)
    return QuantizedWeight(np.rint(bias.astype(np.float64) / steps).astype(np.int32), steps)
