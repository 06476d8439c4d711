"""From the distribution of a tensor to the range that a symmetric integer format keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.calibration.histogram import BINS, Histogram
from graphopt.errors import did_you_mean

RangeMethod = Callable[[Histogram, int], float]
"""From a histogram that is not all zero, and the greatest integer, to a threshold > 0."""

GRID = 160
"""How many thresholds the MSE method tries."""
MSE_FLOOR = 0.2
"""The least threshold that it tries, as a part of the largest magnitude."""
MSE_CLIPPED = 1e-3
"""The largest part of the values other than zero that it may clip by more than half a step."""


def choose_range(histogram: Histogram, method: str, levels: int = 127) -> float:
    """The threshold t of the symmetric range [-t, t] to keep; 0 for a dead tensor (all zero).

    Args:
        method: a key of `METHODS`.
        levels: the greatest integer of the format: t becomes that, the scale is t / levels.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}': {did_you_mean(method, list(METHODS))}")
    if histogram.largest == 0:
        return 0.0
    return METHODS[method](histogram, levels)


def min_max(histogram: Histogram, levels: int) -> float:
    """The largest magnitude: nothing is clipped."""
    return histogram.largest


def mse(histogram: Histogram, levels: int) -> float:
    """The threshold of least expected squared error: the largest magnitude, or one of a grid.

    The linear grid begins a step above the largest magnitude, which lets values that many elements
    share, such as the background of an image, fall on an integer. It ends at two floors, for the
    mean error cares little for a few large values on which a network may depend: `MSE_FLOOR` of
    the largest magnitude, and where `MSE_CLIPPED` of the values would be clipped by more than
    rounding moves them anyway. Zeros, which are exact at every threshold, count for neither.
    Among equals the largest magnitude wins, then the larger threshold.

    The search for the clipping value of least squared error is that of Choukroun et al., "Low-bit
    Quantization of Neural Networks for Efficient Inference" (2019), here on a histogram.
    """
    kept = np.cumsum(histogram.magnitudes())
    enough = int(np.searchsorted(kept, (1 - MSE_CLIPPED) * kept[-1])) + 1
    unclipped = min(math.ldexp(enough / BINS, histogram.exponent), histogram.largest)
    floor = max(MSE_FLOOR * histogram.largest, unclipped * levels / (levels + 0.5))
    grid = np.linspace(histogram.largest * (1 + 1 / levels), floor, GRID)
    thresholds = np.append(histogram.largest, grid)
    return float(thresholds[np.argmin(expected_squared_error(histogram, thresholds, levels))])


def expected_squared_error(
    histogram: Histogram, thresholds: np.ndarray[Any, Any], levels: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The mean squared error of quantizing to [-t, t], for each t of `thresholds` ([n], all > 0).

    It sums rounding error below t and clipping error above, in float64, with values spread
    evenly in each bin. With step d = t / levels, the integral of the squared error from 0 to x is
    exactly n * d**3 / 12 + (x - n * d)**3 / 3, where n = min(round(x / d), levels).
    """
    counts = histogram.magnitudes()
    used = np.flatnonzero(counts)
    edges = np.arange(BINS + 1, dtype=np.float64)  # in bin widths, which keeps it in range
    total = histogram.size
    result = np.empty(len(thresholds), np.float64)
    for i, threshold in enumerate(thresholds):
        step = math.ldexp(float(threshold), -histogram.exponent) * BINS / levels
        whole = np.minimum(np.rint(edges / step), levels)
        integral = whole * step**3 / 12 + (edges - whole * step) ** 3 / 3
        result[i] = np.dot(np.diff(integral)[used], counts[used]) / total
    return result * histogram.width**2


METHODS: dict[str, RangeMethod] = {"minmax": min_max, "mse": mse}
