"""Weights in int8 with a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.quantization import (
    DEAD_SCALE,
    FORMATS,
    quantize,
    ranges,
    stored_scale,
    symmetric_scale,
)

__all__ = ["DEAD_SCALE", "QuantizedWeight", "quantize_weight", "stored_scale"]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight w ~ data * scale along one axis.

    Attributes:
        data: int8, of the weight's shape.
        scale: [channels], in the weight's dtype.
    """

    data: np.ndarray[Any, np.dtype[np.int8]]
    scale: np.ndarray[Any, Any]


def quantize_weight(
    weight: np.ndarray[Any, Any], axis: int, limits: tuple[int, int]
) -> QuantizedWeight:
    """Quantizes `weight` (float32 or float16) with the largest magnitude of each channel kept.

    Args:
        axis: the axis of the channels.
        limits: the least and the greatest integer to use.

    Raises:
        ValueError: if a weight is NaN or infinite.
    """
    low, high = ranges(weight, axis)
    format = FORMATS["int8"]
    scale = symmetric_scale(np.maximum(-low, high), format, weight.dtype, limits)
    # The nearest integers: a quotient rounded to float16 first would not always give them.
    data = quantize(weight, scale, None, format, axis=axis, limits=limits, precision=np.float32)
    return QuantizedWeight(data, scale)
