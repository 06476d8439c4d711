"""The scale and zero point of a tensor of data, from the values that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.calibration import Histogram, choose_range
from graphopt.quantization import Format, affine_parameters, get_format, symmetric_scale
from graphopt.targets.quantization import Numbers


@dataclass(frozen=True)
class Grid:
    """The numbers that a quantized tensor can take: (q - zero_point) * scale.

    Attributes:
        scale: of rank 0, in the dtype of the tensor.
        zero_point: of rank 0, in the dtype of the format.
        limits: the least and the greatest value that the tensor can take.
    """

    scale: np.ndarray[Any, Any]
    zero_point: np.ndarray[Any, Any]
    limits: tuple[float, float]


def grid(histogram: Histogram, method: str, numbers: Numbers, dtype: np.dtype[Any]) -> Grid:
    """The grid in the format of data of `numbers` for a tensor of `dtype`."""
    format = get_format(numbers.data)
    if numbers.symmetric:
        greatest = format.limits[1]
        # fp8 rounds by magnitude: a range that is clipped gains nothing.
        chosen = "minmax" if format.is_float else method
        threshold = choose_range(histogram, chosen, greatest)
        scale = symmetric_scale(threshold, format, dtype)
        return _grid(scale, np.zeros((), format.dtype), format)
    low, high = kept_range(histogram, method, format)
    scale, zero = affine_parameters(low, high, format, dtype)
    return _grid(_within(scale, zero, high, format), zero, format)


def _grid(scale: np.ndarray[Any, Any], zero: np.ndarray[Any, Any], format: Format) -> Grid:
    low, high = (float(scale) * (limit - int(zero)) for limit in format.limits)
    return Grid(scale, zero, (low, high))


def kept_range(histogram: Histogram, method: str, format: Format) -> tuple[float, float]:
    """The least and the greatest value to keep of a tensor whose zero point is free."""
    levels = format.limits[1] - format.limits[0]
    if histogram.size == 0:
        return 0.0, 0.0
    one_sided = histogram.low >= 0 or histogram.high <= 0
    threshold = choose_range(histogram, method, levels if one_sided else levels // 2)
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _within(
    scale: np.ndarray[Any, Any], zero: np.ndarray[Any, Any], high: float, format: Format
) -> np.ndarray[Any, Any]:
    """`scale`, rounded down if the greatest integer would come out above `high`.

    If it stands for more than the upper limit of a Clip, that is no part of QuantizeLinear, and
    ONNX Runtime computes the layer ahead of it in float. It only matters where the zero point is
    the least integer: otherwise the grid is shifted by up to half a step anyway.
    """
    steps = scale.dtype.type(format.limits[1] - int(zero))
    if int(zero) != format.limits[0] or high <= 0 or scale * steps <= high:
        return scale
    return np.nextafter(scale, scale.dtype.type(0))
