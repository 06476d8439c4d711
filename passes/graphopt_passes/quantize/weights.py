"""Weights in int8 with a scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DEAD_SCALE = 2.0**-14
"""The scale of a tensor or channel that is all zero: it must be positive, and float16 holds it."""


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
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others).astype(np.float64)
    if not np.isfinite(largest).all():
        raise ValueError("NaN or an infinite value")
    scale = stored_scale(largest / limits[1], weight.dtype)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    # In float32, as QuantizeLinear divides.
    steps = weight.astype(np.float32) / scale.astype(np.float32).reshape(shape)
    data = np.clip(np.rint(steps), *limits).astype(np.int8)
    return QuantizedWeight(data, scale)


def stored_scale(scale: np.ndarray[Any, Any] | float, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """`scale` (float64, >= 0) as it is stored in `dtype`: always positive, dead ones too.

    float32 values below the normal range become its least, for hardware may flush them to zero;
    float16 keeps its subnormal range, which weights need and GPUs handle.
    """
    info = np.finfo(dtype)
    least = float(info.smallest_subnormal if dtype == np.float16 else info.tiny)
    scale = np.asarray(scale, np.float64)
    return np.where(scale == 0, DEAD_SCALE, np.maximum(scale, least)).astype(dtype)
