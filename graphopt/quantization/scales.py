"""Scales and zero points from the ranges that they are to cover."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from graphopt.quantization.formats import Format

Array = np.ndarray[Any, Any]

DEAD_SCALE = 2.0**-14
"""The scale of a tensor or channel that is all zero: it must be positive, and float16 holds it."""


def stored_scale(scale: Array | float, dtype: DTypeLike) -> Array:
    """`scale` (float64, >= 0) as it is stored in `dtype`: always positive, dead ones too.

    float32 and bfloat16 values below the normal range become its least, for hardware may flush
    them to zero; float16 keeps its subnormal range, which weights need and GPUs handle.
    """
    dtype = np.dtype(dtype)
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    least = float(info.smallest_subnormal if dtype == np.float16 else info.tiny)
    scale = np.asarray(scale, np.float64)
    positive = np.where(scale == 0, DEAD_SCALE, np.maximum(scale, least))
    return np.asarray(positive.astype(dtype))


def symmetric_scale(
    largest: Array | float,
    format: Format,
    dtype: DTypeLike,
    limits: tuple[int, int] | None = None,
) -> Array:
    """The scale that maps the magnitude `largest` to the greatest value; the zero point is 0.

    Args:
        largest: the magnitudes to keep, >= 0, of any shape.
        limits: by default `format.symmetric_limits`.
    """
    _, greatest = format.symmetric_limits if limits is None else limits
    return stored_scale(np.asarray(largest, np.float64) / greatest, dtype)


def affine_parameters(
    low: Array | float, high: Array | float, format: Format, dtype: DTypeLike
) -> tuple[Array, Array]:
    """The scale, and the zero point in `format.dtype`, that cover [low, high] and 0.

    Zero is an integer, exactly: padding and rectifiers rely on it. The range is therefore widened
    to hold 0, and shifted by up to half a step (Jacob et al., "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", 2018).

    Args:
        low: the least values to keep, of any shape.
        high: the greatest, of the same shape.

    Raises:
        ValueError: if the format is fp8, which has no zero point.
    """
    if format.is_float:
        raise ValueError(f"{format.name} has no zero point")
    low = np.minimum(np.asarray(low, np.float64), 0)
    high = np.maximum(np.asarray(high, np.float64), 0)
    least, greatest = format.limits
    scale = stored_scale((high - low) / (greatest - least), dtype)
    zero = np.rint(least - low / scale.astype(np.float64))
    return scale, np.clip(zero, least, greatest).astype(np.int32).astype(format.dtype)


def ranges(x: Array, axis: int | None = None, block_size: int | None = None) -> tuple[Array, Array]:
    """The least and the greatest value of `x`, of its blocks, or of each index of `axis`; float64.

    The shapes are those that `quantize` wants of a scale. What is empty counts as 0.

    Raises:
        ValueError: if `x` holds a NaN or an infinite value.
    """
    low, high = _reduced(np.minimum, x, axis, block_size), _reduced(np.maximum, x, axis, block_size)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError("NaN or an infinite value")
    return low, high


def _reduced(function: np.ufunc, x: Array, axis: int | None, block_size: int | None) -> Array:
    if axis is None or block_size is None:
        others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        if x.size:
            return np.asarray(function.reduce(x, axis=others)).astype(np.float64)
        return np.zeros(() if axis is None else (x.shape[axis],))
    starts = np.arange(0, x.shape[axis], block_size)
    if x.size:
        return np.asarray(function.reduceat(x, starts, axis=axis)).astype(np.float64)
    axis %= x.ndim
    return np.zeros((*x.shape[:axis], len(starts), *x.shape[axis + 1 :]))
