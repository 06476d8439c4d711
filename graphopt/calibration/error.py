"""The error that quantizing to a range makes, expected from the distribution of the values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.calibration.histogram import BINS, Histogram

Floats = np.ndarray[Any, np.dtype[np.float64]]


def expected_squared_error(
    histogram: Histogram, thresholds: np.ndarray[Any, Any], levels: int
) -> Floats:
    """The mean squared error of quantizing to [-t, t], for each t of `thresholds` ([n], all > 0).

    Args:
        levels: the greatest integer: the step is t / levels.
    """
    magnitudes = histogram.magnitudes()
    sums = [_sum(magnitudes, t / levels, levels, histogram) for t in map(float, thresholds)]
    return np.array(sums) / histogram.size


def expected_squared_error_between(
    histogram: Histogram, ranges: np.ndarray[Any, Any], levels: int
) -> Floats:
    """The mean squared error of quantizing to [low, high], for each row of `ranges`.

    Args:
        ranges: [n, 2], low <= 0 <= high and low < high. The range is moved, by half a step at the
            most, for zero to be one of the integers.
        levels: the number of steps between the least and the greatest integer.
    """
    result = np.empty(len(ranges), np.float64)
    negative, positive = histogram.counts
    for i, (low, high) in enumerate(ranges.tolist()):
        step = (high - low) / levels
        below = round(-low / step)
        result[i] = _sum(negative, step, below, histogram)
        result[i] += _sum(positive, step, levels - below, histogram)
    return result / histogram.size


def _sum(
    counts: np.ndarray[Any, np.dtype[np.int64]], step: float, levels: int, histogram: Histogram
) -> float:
    """The squared errors, summed, of the values of one sign in the bins `counts`.

    Rounding error up to `levels` steps of `step` and clipping error above, in float64, with values
    spread evenly in each bin. The integral of the squared error from 0 to x is exactly
    n * d**3 / 12 + (x - n * d)**3 / 3, with step d and n = min(round(x / d), levels).
    """
    used = np.flatnonzero(counts)
    if not len(used):
        return 0.0
    d = math.ldexp(step, -histogram.exponent) * BINS  # in bin widths, which keeps it in range
    edges = np.arange(used[0], used[-1] + 2, dtype=np.float64)
    whole = np.minimum(np.rint(edges / d), levels)
    integral = whole * d**3 / 12 + (edges - whole * d) ** 3 / 3
    in_bins = np.dot(np.diff(integral), counts[used[0] : used[-1] + 1])
    return float(in_bins) * histogram.width**2
