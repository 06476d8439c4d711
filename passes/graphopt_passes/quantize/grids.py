"""The scale and zero point of a tensor of data, from the values that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.calibration import Histogram, Range, choose_range
from graphopt.calibration.ranges import PERCENT
from graphopt.quantization import Format, affine_parameters, get_format, symmetric_scale
from graphopt.targets.quantization import Numbers

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Grid:
    """The numbers that a quantized tensor can take: (q - zero_point) * scale.

    Attributes:
        scale: of rank 0, in the dtype of the tensor.
        zero_point: of rank 0, in the dtype of the format.
        limits: the least and the greatest value that the tensor can take.
    """

    scale: Array
    zero_point: Array
    limits: tuple[float, float]


def choose_data_range(
    histogram: Histogram, method: str, numbers: Numbers, percent: float = PERCENT
) -> Range:
    """The range of a tensor to cover in the data format of `numbers`.

    fp8 keeps all values, whatever the method: its steps grow with the magnitude, so that to clip
    gains next to nothing. A range with a zero point does not go beyond the values either, as a
    symmetric one may: what a Clip never gives, the integers ought not to stand for (`_within`).
    """
    format = get_format(numbers.data)
    least, greatest = format.limits
    method = "minmax" if format.is_float else method
    levels = greatest if numbers.symmetric else greatest - least
    kept = choose_range(histogram, method, levels, symmetric=numbers.symmetric, percent=percent)
    if not numbers.symmetric and histogram.size:
        kept = Range(max(kept.low, min(histogram.low, 0)), min(kept.high, max(histogram.high, 0)))
    return kept


def grid_of(kept: Range, numbers: Numbers, dtype: np.dtype[Any]) -> Grid:
    """The grid in the data format of `numbers` that covers a range, and zero exactly."""
    format = get_format(numbers.data)
    if numbers.symmetric:
        scale = symmetric_scale(kept.threshold, format, dtype)
        zero = np.zeros((), format.dtype)
    else:
        scale, zero = affine_parameters(kept.low, kept.high, format, dtype)
        scale = _within(scale, zero, kept.high, format)
    low, high = (float(scale) * (limit - int(zero)) for limit in format.limits)
    return Grid(np.asarray(scale), np.asarray(zero), (low, high))


def _within(scale: Array, zero: Array, high: float, format: Format) -> Array:
    """`scale`, rounded down if the greatest integer would come out above `high`.

    If it stood for more than the upper limit of a Clip, that would be no part of QuantizeLinear,
    and ONNX Runtime would compute the layer ahead of it in float. It only matters where the zero
    point is the least integer: otherwise the grid is shifted by up to half a step anyway.
    """
    steps = scale.dtype.type(format.limits[1] - int(zero))
    if int(zero) != format.limits[0] or high <= 0 or scale * steps <= high:
        return scale
    return np.asarray(np.nextafter(scale, scale.dtype.type(0)))
