"""The values of each channel of a tensor, in bounded memory, whatever the number of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.calibration.histogram import NO_EXPONENT, refuse_not_finite
from graphopt.calibration.positions import Positions

CHANNEL_BINS = 128
"""Bins of magnitude for each channel; the largest value lies in the upper half of them."""

_LIMBS, _LIMB_BITS, _LOWEST = 10, 32, -149
"""An exact sum is the integer sum of limb[i] * 2**(32 i), in units of the least float32."""

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Channels:
    """Range, mean and a coarse distribution of the values of each of C channels.

    Like that of `Histogram`, its `merge` is associative and commutative to the bit: bins have
    widths that are powers of two, and sums are kept as integers. Values count as float32.
    """

    low: Floats
    """[C]: the least values, exactly; inf where there are none."""
    high: Floats
    """[C]: the greatest values, exactly; -inf where there are none."""
    count: int
    """How many values a channel has."""
    total: Integers
    """[10, C]: the sums, exactly, as limbs; see `mean`."""
    zeros: Integers
    """[C]: how many of the counted values are zero."""
    exponents: Integers
    """[C]: bin i holds the magnitudes in [i * w, (i + 1) * w), with w = 2**exponent / 128."""
    counts: Integers
    """[C, CHANNEL_BINS]: the counted values other than zero, by magnitude."""

    @classmethod
    def of(cls, values: np.ndarray[Any, Any], axis: int, samples: int = 1) -> Channels:
        """The channels of `values`, floats of any shape.

        Range and mean are over all values; the distribution is at `Positions`.

        Args:
            axis: the axis of the channels; a negative one counts from the last.
            samples: how many samples `values` holds, one behind the other.

        Raises:
            ValueError: if there is no such axis, or a value is NaN or beyond float32.
        """
        if not -values.ndim <= axis < values.ndim:
            raise ValueError(f"a shape of rank {values.ndim}, without axis {axis},")
        axis %= values.ndim
        channels = values.shape[axis]
        if values.size == 0:
            return cls._without_values(channels)
        values = np.ascontiguousarray(values, np.float32)
        inner = int(np.prod(values.shape[axis + 1 :]))
        grid = values.reshape(-1, channels, inner)
        low, high = (f(grid, axis=(0, 2)).astype(np.float64) + 0.0 for f in (np.min, np.max))
        refuse_not_finite(float(low.min()), float(high.max()))
        total = _exactly(grid.sum(axis=(0, 2), dtype=np.float64))
        exponents = _exponents(np.maximum(-low, high))

        positions = Positions.of(values.size, samples)
        counted = np.abs(positions.take(values)).ravel()
        channel = (positions.indices() // inner % channels).ravel()
        some = counted > 0
        zeros = np.bincount(channel[~some], minlength=channels).astype(np.int64)
        counted, channel = counted[some].astype(np.float64), channel[some]
        widths = np.ldexp(1 / CHANNEL_BINS, np.maximum(exponents, -200))  # of a dead one: any
        bins = (counted / widths[channel]).astype(np.intp)
        bins += channel * CHANNEL_BINS
        counts = np.bincount(bins, minlength=channels * CHANNEL_BINS).astype(np.int64)
        size = values.size // channels
        return cls(low, high, size, total, zeros, exponents, counts.reshape(channels, -1))

    @classmethod
    def _without_values(cls, channels: int) -> Channels:
        return cls(
            np.full(channels, np.inf),
            np.full(channels, -np.inf),
            0,
            np.zeros((_LIMBS, channels), np.int64),
            np.zeros(channels, np.int64),
            np.full(channels, NO_EXPONENT, np.int64),
            np.zeros((channels, CHANNEL_BINS), np.int64),
        )

    def merge(self, other: Channels) -> Channels:
        """The channels of the values of both.

        Raises:
            ValueError: if they have different numbers of channels.
        """
        if len(self.low) != len(other.low):
            raise ValueError(f"{len(self.low)} channels in one place, {len(other.low)} in another")
        exponents = np.maximum(self.exponents, other.exponents)
        return Channels(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.count + other.count,
            self.total + other.total,
            self.zeros + other.zeros,
            exponents,
            _coarser(self.counts, exponents - self.exponents)
            + _coarser(other.counts, exponents - other.exponents),
        )

    @property
    def largest(self) -> Floats:
        """[C]: the greatest magnitudes, exactly; 0 where there are no values."""
        return np.maximum(np.maximum(-self.low, self.high), 0.0)

    @property
    def mean(self) -> Floats:
        """[C]: the means, rounded once; 0 where there are no values."""
        limbs = self.total.astype(object)
        sums = sum(limb << (_LIMB_BITS * i) for i, limb in enumerate(limbs))
        return np.asarray(sums / (max(self.count, 1) << -_LOWEST), np.float64)

    def percentile(self, percent: float) -> Floats:
        """[C]: the magnitude that `percent` of the values other than zero do not exceed.

        It is the upper edge of a bin, or the greatest magnitude.
        """
        kept = np.cumsum(self.counts, axis=1)
        enough = np.ceil(kept[:, -1:] * (percent / 100))
        edges = (kept < enough).sum(axis=1) + 1
        upper = np.ldexp(edges / CHANNEL_BINS, self.exponents)
        return np.asarray(np.minimum(upper, self.largest))


def _exponents(largest: Floats) -> Integers:
    exponents = np.frexp(largest)[1].astype(np.int64)
    return np.where(largest == 0, NO_EXPONENT, exponents)


def _exactly(sums: Floats) -> Integers:
    """`sums` ([C], multiples of the least float32) in limbs: [10, C], each below 2**32."""
    limbs = np.empty((_LIMBS, len(sums)), np.int64)
    rest = sums.copy()
    for i in reversed(range(_LIMBS)):
        unit = 2.0 ** (_LOWEST + _LIMB_BITS * i)
        whole = np.trunc(rest / unit)
        rest -= whole * unit
        limbs[i] = whole
    return limbs


def _coarser(counts: Integers, doublings: Integers) -> Integers:
    """`counts` with each channel in bins that are 2**doublings as wide."""
    if not doublings.any():
        return counts
    channel, old = np.nonzero(counts)
    new = old >> np.minimum(doublings[channel], CHANNEL_BINS.bit_length())
    result = np.zeros_like(counts)
    np.add.at(result, (channel, new), counts[channel, old])
    return result
