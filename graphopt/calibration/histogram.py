"""The distribution of a tensor's values in bounded memory, whatever the number of samples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BINS = 2048
"""Bins for each sign. The largest value lies in the upper half, so at least 1024 are in use."""

NO_EXPONENT = -2000
"""The exponent of a histogram with no value other than zero: below that of every float64."""


def _no_counts() -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.zeros((2, BINS), np.int64)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values by sign and magnitude, the exact zeros apart.

    The bins of each sign are [i * w, (i + 1) * w) with w = 2**exponent / BINS, where `exponent` is
    the least one that covers the largest magnitude. Since w is a power of two, a bin of twice the
    width is exactly the union of two bins, so a histogram depends on the values alone and not on
    how they were cut up or in which order they came: `merge` is associative and commutative to
    the bit.
    """

    low: float = math.inf
    """The least value, exactly; inf if there is none."""
    high: float = -math.inf
    """The greatest value, exactly; -inf if there is none."""
    zeros: int = 0
    """How many values are zero. A ReLU makes many; symmetric quantization keeps them exactly."""
    exponent: int = NO_EXPONENT
    counts: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=_no_counts)
    """int64 [2, BINS]: row 0 for the negative values, row 1 for the positive ones."""

    @classmethod
    def of(
        cls, values: np.ndarray[Any, Any], counted: np.ndarray[Any, Any] | None = None
    ) -> Histogram:
        """The histogram of `values`, floats of any shape.

        Args:
            counted: the values to count, if not all of them; the range is that of all.

        Raises:
            ValueError: if a value is NaN or infinite.
        """
        if values.size == 0:
            return cls()
        values = widened(values)
        return cls.within(
            float(values.min()),
            float(values.max()),
            values if counted is None else widened(counted),
        )

    @classmethod
    def within(cls, low: float, high: float, counted: np.ndarray[Any, Any]) -> Histogram:
        """The histogram of values of which the least, the greatest and some to count are known.

        Raises:
            ValueError: if `low` or `high` is NaN or infinite.
        """
        # Adding 0.0 makes -0.0 into 0.0, which of the two comes first must not matter.
        low, high = low + 0.0, high + 0.0
        refuse_not_finite(low, high)
        largest = max(-low, high)
        if largest == 0:
            return cls(low, high, counted.size)
        exponent = math.frexp(largest)[1]
        negative, positive = (int(np.count_nonzero(side)) for side in (counted < 0, counted > 0))
        counts = _count(counted, exponent, negative, positive)
        return cls(low, high, counted.size - negative - positive, exponent, counts)

    @property
    def size(self) -> int:
        """The number of values."""
        return self.zeros + int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0 / BINS, self.exponent)

    @property
    def largest(self) -> float:
        """The greatest magnitude, exactly; 0 if there is none."""
        return max(-self.low, self.high) if self.size else 0.0

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of the values of both."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(
            min(self.low, other.low),
            max(self.high, other.high),
            self.zeros + other.zeros,
            exponent,
            _coarser(self.counts, exponent - self.exponent)
            + _coarser(other.counts, exponent - other.exponent),
        )

    @staticmethod
    def merge_all(histograms: Iterable[Histogram]) -> Histogram:
        """The histogram of the values of all `histograms`; an empty one if there are none."""
        merged = Histogram()
        for histogram in histograms:
            merged = merged.merge(histogram)
        return merged

    def magnitudes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 [BINS]: counts by magnitude, without regard to sign; zeros left out."""
        return np.asarray(self.counts.sum(axis=0))

    def clipped(self, threshold: float) -> float:
        """The part of the values that lie beyond `threshold` by more than a bin."""
        if threshold >= self.largest:
            return 0.0
        first = math.floor(math.ldexp(threshold, -self.exponent) * BINS) + 1
        return float(self.magnitudes()[first:].sum() / self.size)


def refuse_not_finite(low: float, high: float) -> None:
    """Raises ValueError if the least or the greatest of some values is NaN or infinite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("NaN" if math.isnan(low) or math.isnan(high) else "an infinite value")


def widened(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`values` in a type to compute in: float16 and bfloat16 become float32, exactly."""
    return values if values.dtype.type in (np.float32, np.float64) else values.astype(np.float32)


def _count(
    values: np.ndarray[Any, Any], exponent: int, negative: int, positive: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [2, BINS]: how many of `values`, all within 2**exponent, are in each bin.

    Both signs in one sweep: scaled and cut to an integer, a value -3.7 is in bin 3 of its sign.
    What is cut to 0 does not tell its sign, so the first bins follow from how many values are
    `negative` and `positive`.
    """
    index = _scaled(values, exponent).astype(np.intp).ravel()
    index += BINS
    both = np.bincount(index, minlength=2 * BINS).astype(np.int64, copy=False)
    counts = np.empty((2, BINS), np.int64)
    counts[0, 1:] = both[BINS - 1 : 0 : -1]
    counts[1, 1:] = both[BINS + 1 :]
    counts[:, 0] = (negative, positive) - counts[:, 1:].sum(axis=1)
    return counts


def _scaled(values: np.ndarray[Any, Any], exponent: int) -> np.ndarray[Any, Any]:
    """`values` in units of 2**exponent / BINS."""
    shift = BINS.bit_length() - 1 - exponent
    if shift < np.finfo(values.dtype).maxexp:
        return np.asarray(values * values.dtype.type(2.0**shift))
    return np.asarray(np.ldexp(values, shift))  # many times slower; for subnormal values


def _coarser(
    counts: np.ndarray[Any, np.dtype[np.int64]], doublings: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`counts` in bins that are 2**doublings as wide."""
    if doublings == 0:
        return counts
    kept = BINS >> min(doublings, BINS.bit_length() - 1)
    result = _no_counts()
    result[:, :kept] = counts.reshape(2, kept, -1).sum(axis=2)
    return result
