"""From the distribution of a tensor to the range that an integer format keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.calibration.entropy import divergences
from graphopt.calibration.error import expected_squared_error, expected_squared_error_between
from graphopt.calibration.histogram import BINS, Histogram
from graphopt.errors import did_you_mean

GRID = 160
"""How many thresholds the MSE method tries, for each end that moves."""
MSE_FLOOR = 0.2
"""The least threshold that it tries, as a part of the largest magnitude."""
MSE_CLIPPED = 1e-3
"""The largest part of the values other than zero that it may clip by more than half a step."""
ENTROPY_GRID = 128
"""How many thresholds the entropy method tries, at most, for each end that moves."""
PERCENT = 99.99

Rows = np.ndarray[Any, np.dtype[np.float64]]
"""[n, 2]: ranges, low and high."""


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, both finite."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"a range must be finite, not [{self.low}, {self.high}]")
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, {self.high}")

    @staticmethod
    def covering(ranges: Iterable[Range]) -> Range:
        """The least range that covers all of `ranges`, of which there is one at least."""
        given = list(ranges)
        return Range(min(one.low for one in given), max(one.high for one in given))

    @property
    def threshold(self) -> float:
        """The least t such that [-t, t] covers it: the range of a symmetric format."""
        return max(-self.low, self.high, 0.0)


@dataclass(frozen=True)
class Grid:
    """The integers that a range is laid on.

    Attributes:
        levels: if symmetric, the greatest integer, which the threshold becomes (127 for int8);
            otherwise the number of steps from the least to the greatest (255 for uint8).
        symmetric: whether ranges are [-t, t]; otherwise a zero point moves them.
    """

    levels: int = 127
    symmetric: bool = True

    @property
    def steps(self) -> int:
        """The number of steps from the least to the greatest integer."""
        return 2 * self.levels if self.symmetric else self.levels

    def errors(self, histogram: Histogram, rows: Rows) -> Rows:
        """[n]: the expected squared error of each range."""
        if self.symmetric:
            return expected_squared_error(histogram, rows[:, 1], self.levels)
        return expected_squared_error_between(histogram, rows, self.levels)


def choose_range(
    histogram: Histogram,
    method: str = "mse",
    levels: int = 127,
    *,
    symmetric: bool = True,
    percent: float = PERCENT,
) -> Range:
    """The range to keep. It contains zero; of a dead tensor (all zero, or empty) it is [0, 0].

    Args:
        method: a key of `METHODS`.
        levels: of a symmetric format the greatest integer: [-t, t] becomes [-levels, levels].
            Of another the number of steps from the least to the greatest, 255 for uint8.
        symmetric: whether the format has its zero point at 0.
        percent: for `percentile`: how many of the values other than zero to keep.

    Raises:
        ValueError: if there is no such method, or no such part as `percent`.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent is {percent}, not above 0 and up to 100")
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}': {did_you_mean(method, list(METHODS))}")
    if histogram.largest == 0:
        return Range(0.0, 0.0)
    return Range(*METHODS[method](histogram, Grid(levels, symmetric), percent))


Ends = tuple[float, float]
RangeMethod = Callable[[Histogram, Grid, float], Ends]
"""From a histogram that is not all zero to low <= 0 <= high with low < high."""


def min_max(histogram: Histogram, grid: Grid, percent: float = PERCENT) -> Ends:
    """All values: nothing is clipped."""
    if grid.symmetric:
        return -histogram.largest, histogram.largest
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def percentile(histogram: Histogram, grid: Grid, percent: float = PERCENT) -> Ends:
    """The least range that holds `percent` of the values other than zero, to a bin.

    Symmetric ranges cut off the largest magnitudes, others the same number at both ends. Zeros do
    not count: they are exact in every range, and where a ReLU leaves few other values, a
    percentile of all could cut off every one of them.
    """
    full = min_max(histogram, grid)
    cut = (1 - percent / 100) * int(histogram.counts.sum())
    if grid.symmetric:
        t = min(_end(histogram.magnitudes(), cut, histogram), histogram.largest)
        return -t, t
    ends = (_end(counts, cut / 2, histogram) for counts in histogram.counts)
    low, high = max(-next(ends), full[0]), min(next(ends), full[1])
    return (low, high) if low < high else full


def _end(counts: np.ndarray[Any, np.dtype[np.int64]], cut: float, histogram: Histogram) -> float:
    """The upper edge of the first bin above which at most `cut` values lie; 0 for all of them."""
    above = counts.sum() - np.cumsum(counts)
    if counts.sum() <= cut:
        return 0.0
    return math.ldexp((int(np.argmax(above <= cut)) + 1) / BINS, histogram.exponent)


def entropy(histogram: Histogram, grid: Grid, percent: float = PERCENT) -> Ends:
    """The range in which the quantized values tell most about the true ones.

    It tries ranges from that of all values down to one with a step for each bin of the histogram,
    where the quantized distribution would be the true one for want of resolution. By itself it
    may clip values on which a network depends; `auto` has a guard.
    """
    full = min_max(histogram, grid)
    floor = grid.steps * histogram.width / (full[1] - full[0])
    if floor >= 1:  # fewer bins than integers: the histogram cannot tell
        return full

    def tried(end: float) -> Rows:
        count = min(ENTROPY_GRID, math.ceil((1 - floor) * abs(end) / histogram.width) + 1)
        return np.linspace(end, floor * end, count)

    return _search(full, grid, tried, lambda rows: divergences(histogram, rows, grid.steps))


def mse(histogram: Histogram, grid: Grid, percent: float = PERCENT) -> Ends:
    """The range of least expected squared error: that of all values, or one of a grid.

    The linear grid begins a step above the largest magnitude, which lets values that many elements
    share, such as the background of an image, fall on an integer. It ends at two floors, for the
    mean error cares little for a few large values on which a network may depend: `MSE_FLOOR` of
    the largest magnitude, and where `MSE_CLIPPED` of the values would be clipped by more than
    rounding moves them anyway. Zeros, which are exact at every threshold, count for neither.
    Among equals the largest magnitude wins, then the larger threshold.

    The search for the clipping value of least squared error is that of Choukroun et al., "Low-bit
    Quantization of Neural Networks for Efficient Inference" (2019), here on a histogram.
    """
    full = min_max(histogram, grid)
    floors = _floors(histogram, grid)

    def tried(end: float) -> Rows:
        above, floor = end * (1 + 1 / grid.levels), floors[int(end > 0)]
        return np.append(end, np.linspace(above, floor, GRID))

    return _search(full, grid, tried, lambda rows: grid.errors(histogram, rows))


def _floors(histogram: Histogram, grid: Grid) -> Ends:
    """The narrowest range that `mse` and `auto` take."""
    full = min_max(histogram, grid)
    half = (full[1] - full[0]) / grid.steps / 2
    total = int(histogram.counts.sum())
    if grid.symmetric:
        kept = min(_end(histogram.magnitudes(), MSE_CLIPPED * total, histogram), full[1])
        t = max(MSE_FLOOR * full[1], kept * grid.levels / (grid.levels + 0.5))
        return -t, t
    low, high = (_end(counts, MSE_CLIPPED * total / 2, histogram) for counts in histogram.counts)
    return (
        min(MSE_FLOOR * full[0], -min(low, -full[0]) + half, 0.0),
        max(MSE_FLOOR * full[1], min(high, full[1]) - half, 0.0),
    )


def _search(
    full: Ends, grid: Grid, tried: Callable[[float], Rows], score: Callable[[Rows], Rows]
) -> Ends:
    """The range of the least `score`, from `full` inwards; the first among equals.

    One threshold in a symmetric format; otherwise one end after the other, twice.

    Args:
        tried: candidates for an end of `full`.
    """
    if grid.symmetric:
        thresholds = tried(full[1])
        best = float(thresholds[np.argmin(score(np.stack([-thresholds, thresholds], axis=1)))])
        return -best, best
    ends = list(full)
    for side in (1, 0, 1, 0):
        if full[side] == 0:
            continue
        rows = np.tile(np.array(ends), (len(tried(full[side])), 1))
        rows[:, side] = tried(full[side])
        ends[side] = float(rows[np.argmin(score(rows)), side])
    return ends[0], ends[1]


def auto(histogram: Histogram, grid: Grid, percent: float = PERCENT) -> Ends:
    """Of what the other methods choose, that of the least expected squared error.

    A choice that is narrower than `mse` may be is not taken: entropy and percentile can cut off
    the values on which a network depends, at a small mean error.
    """
    floors = _floors(histogram, grid)
    rows = np.array(
        [method(histogram, grid, percent) for method in (min_max, percentile, entropy, mse)]
    )
    wide = (rows[:, 0] <= floors[0]) & (rows[:, 1] >= floors[1])
    errors = np.where(wide, grid.errors(histogram, rows), math.inf)
    low, high = rows[np.argmin(errors)].tolist()
    return low, high


METHODS: dict[str, RangeMethod] = {
    "auto": auto,
    "entropy": entropy,
    "minmax": min_max,
    "mse": mse,
    "percentile": percentile,
}
