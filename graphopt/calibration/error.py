"""The error that quantizing to a range makes, expected from the distribution of the values."""

from __future__ import annotations

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
    steps = np.asarray(thresholds, np.float64) / levels
    return _sums(histogram.magnitudes(), steps, levels, histogram) / histogram.size


def expected_squared_error_between(
    histogram: Histogram, ranges: np.ndarray[Any, Any], levels: int
) -> Floats:
    """The mean squared error of quantizing to [low, high], for each row of `ranges`.

    Args:
        ranges: [n, 2], low <= 0 <= high and low < high. The range is moved, by half a step at the
            most, for zero to be one of the integers.
        levels: the number of steps between the least and the greatest integer.
    """
    steps = (ranges[:, 1] - ranges[:, 0]) / levels
    below = np.rint(-ranges[:, 0] / steps)
    negative, positive = histogram.counts
    sums = _sums(negative, steps, below, histogram)
    sums += _sums(positive, steps, levels - below, histogram)
    return sums / histogram.size


def _sums(
    counts: np.ndarray[Any, np.dtype[np.int64]],
    steps: Floats,
    levels: Floats | int,
    histogram: Histogram,
) -> Floats:
    """[n]: the squared errors, summed, of the values of one sign in the bins `counts`.

    Rounding error up to `levels` steps of `steps` and clipping error above, in float64, with
    values spread evenly in each bin. The integral of the squared error from 0 to x is exactly
    n * d**3 / 12 + (x - n * d)**3 / 3, with step d and n = min(round(x / d), levels).
    """
    used = np.flatnonzero(counts)
    if not len(used):
        return np.zeros(len(steps))
    edges = np.arange(used[0], used[-1] + 2, dtype=np.float64)
    # In bin widths, which keeps it in range.
    d = (np.ldexp(steps, -histogram.exponent) * BINS)[:, np.newaxis]
    whole = np.rint(edges / d)
    np.minimum(whole, np.reshape(levels, (-1, 1)), out=whole)
    rest = edges - whole * d
    integral = whole * (d**3 / 12) + rest * rest * rest / 3
    return np.asarray(np.diff(integral) @ counts[used[0] : used[-1] + 1] * histogram.width**2)
