"""How much a distribution loses, in information, when it is quantized."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.calibration.histogram import BINS, Histogram

Floats = np.ndarray[Any, np.dtype[np.float64]]


def divergences(histogram: Histogram, ranges: np.ndarray[Any, Any], levels: int) -> Floats:
    """The divergence of Kullback and Leibler for each range: of the quantized from the true values.

    The method of TensorRT: Migacz, "8-bit Inference with TensorRT" (GTC 2017). The true
    distribution has what is clipped in the outermost bin of the range; the quantized one spreads
    what rounds to the same integer evenly over those of its bins that are not empty. Here the
    integer is that which quantizing would give, and zeros, exact at every range, are left out.

    Args:
        ranges: [n, 2], low <= 0 <= high and low < high.
        levels: the number of steps from low to high.
    """
    negative, positive = histogram.counts
    counts: Floats = np.concatenate([negative[::-1], positive]).astype(np.float64)
    centres: Floats = np.arange(-BINS, BINS, dtype=np.float64) + 0.5
    return np.array([_divergence(counts, centres, r, levels, histogram) for r in ranges.tolist()])


def _divergence(
    counts: Floats, centres: Floats, limits: list[float], levels: int, histogram: Histogram
) -> float:
    low, high = (math.ldexp(limit, -histogram.exponent) * BINS for limit in limits)
    first = max(BINS + math.floor(low), 0)
    last = min(BINS + math.ceil(high), 2 * BINS)
    kept = counts[first:last]
    inside = kept.sum()
    if inside == 0:
        return math.inf
    true = kept.copy()
    true[0] += counts[:first].sum()
    true[-1] += counts[last:].sum()
    step = (high - low) / levels
    integers = np.clip(np.rint(centres[first:last] / step), round(low / step), round(high / step))
    group = (integers - integers[0]).astype(np.intp)
    used = kept > 0
    share = np.bincount(group, kept) / np.maximum(np.bincount(group, used), 1)
    # A clipped value may have an empty bin, which the quantized distribution does not know: it
    # then has the least that any bin has, not nothing, for the divergence would be infinite.
    spread = np.where(used, share[group], kept[used].min()) / inside
    some = true > 0
    p = true[some] / true.sum()
    return float(np.sum(p * np.log(p / spread[some])))
