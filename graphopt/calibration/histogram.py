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
    def of(cls, values: np.ndarray[Any, Any]) -> Histogram:
        """The histogram of `values`, floats of any shape.

        Raises:
            ValueError: if a value is NaN or infinite.
        """
        if values.size == 0:
            return cls()
        if values.dtype.type not in (np.float32, np.float64):
            values = values.astype(np.float32)  # float16 and bfloat16, exactly
        # Adding 0.0 makes -0.0 into 0.0, which of the two comes first must not matter.
        low, high = float(values.min()) + 0.0, float(values.max()) + 0.0
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN" if math.isnan(low) or math.isnan(high) else "an infinite value")
        signs = -values[values < 0], values[values > 0]
        zeros = values.size - signs[0].size - signs[1].size
        if zeros == values.size:
            return cls(low, high, zeros)
        exponent = math.frexp(max(-low, high))[1]
        return cls(low, high, zeros, exponent, np.stack([_count(s, exponent) for s in signs]))

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


def _count(magnitudes: np.ndarray[Any, Any], exponent: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [BINS]: how many of `magnitudes`, all below 2**exponent, are in each bin."""
    shift = BINS.bit_length() - 1 - exponent
    if shift < np.finfo(magnitudes.dtype).maxexp:
        scaled = magnitudes * magnitudes.dtype.type(2.0**shift)
    else:
        scaled = np.ldexp(magnitudes, shift)  # many times slower; for subnormal values
    return np.bincount(scaled.astype(np.intp), minlength=BINS).astype(np.int64, copy=False)


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
