"""The factors that come into question for a group of channels.

All are powers of two: floating-point numbers then keep every bit of their mantissas, and the model
every bit of its outputs. Candidates do not depend on how the group is scaled already, so that a
second search finds what the first has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.ir import constant_array
from graphopt_passes.equalize.groups import Channels, Factors, Group
from graphopt_passes.equalize.observe import Observed
from graphopt_passes.equalize.readers import Reader

MIGRATION = (1.0, 0.75, 0.5, 0.25)
"""How much of the difference between the peaks of channels goes from the data into the weights."""
LEAST_SHARE = 2.0**-5
"""A channel that carries a smaller part than this of what the strongest one carries (its peak times
the weights that read it) is taken to carry that part: it may hold more on other data, and brought
up further it would gain nothing, for its noise is that of its weights."""


def smooth(peaks: Factors, weights: Factors, alpha: float) -> Factors:
    """The powers of two by which channels are to be multiplied, up to a common one.

    With alpha 1/2, and the peaks of the weights that make the channels in place of data, this is
    cross-layer equalization (Nagel et al., "Data-Free Quantization through Weight Equalization and
    Bias Correction", 2019, equation 11); otherwise SmoothQuant (Xiao et al. 2022, equation 4).

    Args:
        peaks: the largest magnitude of each channel.
        weights: the largest magnitude of the weights that read it; see `read_peaks`.
    """
    strongest = (peaks * weights).max()
    if strongest == 0:
        return np.ones(len(peaks))
    read = weights > 0
    carried = np.maximum((peaks * weights)[read], LEAST_SHARE * strongest)
    exponents = np.zeros(len(peaks))
    exponents[read] = np.rint(np.log2(weights[read]) - alpha * np.log2(carried))
    unread = ~read & (peaks > 0)
    highest = (peaks * np.exp2(exponents))[read].max()
    exponents[unread] = np.floor(np.log2(highest / peaks[unread]))
    return np.exp2(exponents)


def by_data(
    group: Group, readers: Sequence[Reader], seen: Mapping[str, Observed], factors: Factors
) -> dict[str, Factors]:
    """Factors of all channels with new ones for `group`, by how they came about."""
    peaks = _peaks(readers, seen, factors)
    own = peaks[group.channels]
    weights = read_peaks(readers, peaks, factors)[group.channels]
    peaks[group.channels] = 0
    others = peaks.max()
    found = {}
    for alpha in MIGRATION:
        change = smooth(own, weights, alpha)
        after, goal = (own * change).max(), others or own.max()
        if after > 0 and goal > 0:
            change *= np.exp2(np.rint(np.log2(goal / after)))
        if np.any(change != 1):
            found[f"smooth {alpha:g}"] = with_change(factors, group, change)
    return found


def by_weights(group: Group, readers: Sequence[Reader], channels: Channels, f: Factors) -> Factors:
    """The same without data, by what the weights that make the channels say of their peaks."""
    peaks = np.zeros(channels.count)
    read = [reader.weight_numbers.reshape(-1) for reader in readers]
    for slot in channels.makers_of(np.unique(np.concatenate([group.channels, *read]))):
        array = constant_array(slot.node.inputs[slot.index])
        numbers = channels.numbers(slot.up)
        if array is not None:
            made = np.abs(array) * channels.up(slot, f) / channels.down(slot, f)
            np.maximum.at(peaks, np.broadcast_to(numbers, made.shape), made)
    own = peaks[group.channels]
    change = smooth(own, read_peaks(readers, peaks, f)[group.channels], 0.5)
    if own.any():
        change *= np.exp2(np.rint(np.log2(own.max() / (own * change).max())))
    return with_change(f, group, change)


def with_change(factors: Factors, group: Group, change: Factors) -> Factors:
    result: Factors = factors.copy()
    result[group.channels] *= change
    return result


def read_peaks(readers: Sequence[Reader], peaks: Factors, factors: Factors) -> Factors:
    """The largest magnitude of the weights that read each channel, by number."""
    weights: Factors = np.zeros(len(factors))
    for reader in readers:
        weights = np.maximum(weights, reader.weight_peaks(peaks, factors))
    return weights


def _peaks(readers: Sequence[Reader], seen: Mapping[str, Observed], factors: Factors) -> Factors:
    """The largest magnitude of each channel, by number, in all that `readers` read."""
    peaks = np.zeros(len(factors))
    for reader in readers:
        peaks = np.maximum(peaks, seen[reader.value].peaks)
    return np.asarray(peaks * factors)
