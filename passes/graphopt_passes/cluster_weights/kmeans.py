"""k-means in one dimension, for many rows of numbers at once: the optimum, or next to it.

In one dimension the clusters are intervals of the sorted numbers, so that the best k of them can be
found by dynamic programming (Wang and Song, "Ckmeans.1d.dp: Optimal k-means Clustering in One
Dimension by Dynamic Programming", 2011). Here that chooses among a limited number of places to
cut, and Lloyd's iteration ("Least Squares Quantization in PCM", 1982) moves the cuts from there to
where no number is nearer to another centre. Nothing is random.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CUTS = 1024
"""Among how many places the cuts of a single row are chosen; all, in a row of fewer numbers."""
CUTS_PER_LEVEL = 4
"""The same in each of many rows, for each level: within 3% of the least squared error, mostly."""
MANY_LEVELS = 32
"""With more levels than that, a cluster of a single row spans at most..."""
SPANS = 8
"""...this many times the places that it would span if all spanned as many."""
ITERATIONS = 60
"""Of Lloyd, at most."""
CHUNK = 1 << 22
"""How many elements of the tables of costs are held at a time."""


def centres(rows: Array, levels: int, *, zero: bool = False) -> Array:
    """The centres of `levels` clusters of each row, ascending; those not needed repeat the last.

    Args:
        rows: [rows, elements], at least one element; finite.
        zero: whether one centre of each row that holds a zero is to be exactly 0.

    Returns:
        [rows, levels], float64.
    """
    count, size = rows.shape
    cuts = CUTS if count == 1 else CUTS_PER_LEVEL * levels
    step = max(1, CHUNK // max(size, (min(cuts, size) + 1) ** 2))
    parts = [_Rows(rows[i : i + step], levels, zero).centres(cuts) for i in range(0, count, step)]
    return np.concatenate(parts)


def nearest(values: Array, codebook: Array) -> Array:
    """The index of the number in `codebook` (ascending) that is nearest to each of `values`.

    Args:
        values: of any shape.

    Returns:
        uint8, of that shape.
    """
    middles = _middles(codebook[None].astype(np.float64))[0]
    found = np.searchsorted(middles, values.reshape(-1).astype(np.float64), side="left")
    return np.asarray(found.astype(np.uint8).reshape(values.shape))


class _Rows:
    """Rows of numbers in ascending order, with their running sums."""

    def __init__(self, rows: Array, levels: int, zero: bool) -> None:
        self.levels = levels
        self.sorted = np.sort(rows, axis=1).astype(np.float64)
        self.count, self.size = rows.shape
        self.sums = np.zeros((self.count, self.size + 1))
        np.cumsum(self.sorted, axis=1, out=self.sums[:, 1:])
        has_zero = (self.sorted == 0).any(axis=1)
        self.pinned = has_zero if zero else np.zeros(self.count, bool)

    def centres(self, cuts: int) -> Array:
        exact = self._distinct()
        if self.size <= self.levels:
            return exact
        bounds = self._programmed(self._places(cuts))
        found = self._settle(self._means(bounds, self._edges(bounds)))
        return np.where(np.isnan(exact), found, exact)

    def _places(self, cuts: int) -> Array:
        """[rows, places] positions in the sorted rows: a quarter of them evenly by number.

        The others are dense where many levels should be: their density is the cube root of that of
        the numbers, which is best for many levels (Panter and Dite, "Quantization Distortion in
        Pulse-Count Modulation with Nonuniform Spacing of Levels", 1951). With density f gaps are
        1 / f: the sum of their powers 2/3 is its integral.
        """
        if cuts >= self.size:
            return np.broadcast_to(np.arange(self.size + 1), (self.count, self.size + 1))
        reached = np.zeros((self.count, self.size))
        np.cumsum(np.cbrt(np.square(np.diff(self.sorted, axis=1))), axis=1, out=reached[:, 1:])
        even = np.linspace(0, self.size, cuts // 4 + 1).round().astype(int)
        others = cuts + 1 - len(even)
        wanted = reached[:, -1:] * (np.arange(1, others + 1) / (others + 1))
        pairs = zip(reached, wanted, strict=True)
        dense = np.stack([np.searchsorted(row, steps) for row, steps in pairs])
        even = np.broadcast_to(even, (self.count, len(even)))
        places = np.sort(np.concatenate([even, dense], axis=1), axis=1)
        return np.unique(places)[None] if self.count == 1 else places

    def _programmed(self, places: Array) -> Array:
        """[rows, levels + 1]: which of `places` bound the clusters of least squared error."""
        last = places.shape[1] - 1
        span = last
        if self.count == 1 and self.levels > MANY_LEVELS and self.size > CUTS:
            span = min(last, SPANS * -(-last // self.levels))
        cost = self._costs(places, span)
        total = np.full((self.count, last + 1), np.inf)
        total[:, 0] = 0
        choices = []
        for _ in range(self.levels):
            sums = _windows(total, span, np.inf) + cost
            choices.append(sums.argmin(axis=2))
            total = np.take_along_axis(sums, choices[-1][:, :, None], axis=2)[:, :, 0]
        path = [np.full(self.count, last)]
        for choice in reversed(choices):
            path.append(path[-1] - choice[np.arange(self.count), path[-1]])
        return np.take_along_axis(places, np.stack(path[::-1], axis=1), axis=1)

    def _costs(self, places: Array, span: int) -> Array:
        """[rows, place, n]: the squared error of the cluster of the n places up to this one."""
        squares = np.zeros_like(self.sums)
        np.cumsum(np.square(self.sorted), axis=1, out=squares[:, 1:])
        ends = [np.take_along_axis(table, places, 1) for table in (self.sums, squares)]
        sums, cost = (end[:, :, None] - _windows(end, span, 0) for end in ends)
        numbers = (places[:, :, None] - _windows(places, span, 0)).astype(np.float64)
        cost -= np.divide(np.square(sums), numbers, out=np.zeros_like(sums), where=numbers > 0)
        there = np.arange(places.shape[1])[:, None] >= np.arange(span + 1)
        return np.where(there, np.maximum(cost, 0), np.inf)

    def _settle(self, means: Array) -> Array:
        """Lloyd's iteration from these centres on, until no number changes its cluster."""
        means = self._pin(means)
        bounds = self._bounds(means)
        for _ in range(ITERATIONS):
            means = self._pin(self._means(bounds, means))
            moved = self._bounds(means)
            if np.array_equal(moved, bounds):
                break
            bounds = moved
        return means

    def _bounds(self, means: Array) -> Array:
        """[rows, levels + 1]: where in the sorted rows the numbers nearest to each mean begin."""
        pairs = zip(self.sorted, _middles(means), strict=True)
        return self._with_ends(np.stack([np.searchsorted(row, at, "right") for row, at in pairs]))

    def _with_ends(self, inner: Array) -> Array:
        first, last = np.zeros((self.count, 1), int), np.full((self.count, 1), self.size)
        return np.concatenate([first, inner, last], axis=1)

    def _means(self, bounds: Array, otherwise: Array) -> Array:
        """The mean of each cluster; `otherwise` that of an empty one."""
        numbers = np.diff(bounds, axis=1)
        sums = np.diff(np.take_along_axis(self.sums, bounds, 1), axis=1)
        means = np.divide(sums, numbers, out=otherwise.copy(), where=numbers > 0)
        return np.sort(means, axis=1)  # rounding of the sums may have swapped equals

    def _edges(self, bounds: Array) -> Array:
        """A number at the beginning of each cluster."""
        return np.take_along_axis(self.sorted, np.minimum(bounds[:, :-1], self.size - 1), 1)

    def _pin(self, means: Array) -> Array:
        """Moves the mean that is nearest to zero there, in the rows that want it."""
        rows = np.flatnonzero(self.pinned)
        means[rows, np.abs(means[rows]).argmin(axis=1)] = 0
        return means

    def _distinct(self) -> Array:
        """The numbers of each row that has no more than `levels` of them; NaN in other rows."""
        result = np.full((self.count, self.levels), np.nan)
        different = (np.diff(self.sorted, axis=1) != 0).sum(axis=1) + 1
        for row in np.flatnonzero(different <= self.levels):
            values = np.unique(self.sorted[row])
            result[row] = np.pad(values, (0, self.levels - len(values)), mode="edge")
        return result


def _windows(table: Array, span: int, before: float) -> Array:
    """[rows, place, n]: `table` n places ahead of each place; `before` where there is none."""
    padded = np.pad(table, ((0, 0), (span, 0)), constant_values=before)
    return np.lib.stride_tricks.sliding_window_view(padded, span + 1, axis=1)[..., ::-1]


def _middles(means: Array) -> Array:
    return means[:, :-1] + (means[:, 1:] - means[:, :-1]) / 2
