"""Taking sets of inputs away from least-squares problems, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

RIDGE = 1e-2
"""As compensation's: what keeps the problem solvable, relative to the mean of the diagonal."""
PORTION = 64
"""One in so many of the sets that are left goes at a time; those few do not hear of each other."""
COMPACT = 0.75
"""When a smaller share of a problem's inputs is left, it is copied to a smaller one."""


class Problem:
    """A layer that gives X W, as sets of its inputs are taken away and the rest is refitted.

    With H = X'X + lambda I and a set S of inputs, the least rise of |X W - X W0|^2 + lambda
    |W - W0|^2 is tr(W_S' ([H^-1]_SS)^-1 W_S), and it is reached by taking
    [H^-1]_:S ([H^-1]_SS)^-1 W_S from W (Frantar & Alistarh 2022, "Optimal Brain Compression",
    section 3 and the group form of its section 4; Kurtic et al. 2023, "ZipLM", section 3.1).
    """

    def __init__(
        self, gram: Array, weight: Array, rows: Sequence[Array], energy: float, ridge: float = RIDGE
    ) -> None:
        """Starts with all inputs.

        Args:
            gram: X'X / rows, float64 [inputs, inputs].
            weight: W, float64 [inputs, outputs].
            rows: the inputs of each set; empty where a set has none here.
            energy: what rises are relative to.
        """
        diagonal = np.diag(gram)
        # An input that is always zero costs nothing, whatever its weight.
        self._weight = np.where((diagonal > 0)[:, None], weight, 0.0)
        strength = ridge * float(diagonal.mean()) or 1.0
        self._inverse = np.linalg.inv(gram + strength * np.eye(len(gram)))
        self._left = np.ones(len(gram), dtype=bool)
        self._energy = max(energy, 1e-30)
        sizes: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            sizes.setdefault(len(row), []).append(number)
        sizes.pop(0, None)
        self._parts = [
            (np.array(sets), np.stack([rows[number] for number in sets]))
            for _, sets in sorted(sizes.items())
        ]

    def add_rises(self, rises: Array) -> None:
        """Adds to `rises`, one for each set, what this problem loses if it goes."""
        for sets, rows in self._parts:
            block = self._inverse[rows[:, :, None], rows[:, None, :]]
            weight = self._weight[rows]
            rise = np.einsum("aio,aio->a", weight, np.linalg.solve(block, weight))
            rises[sets] += np.maximum(rise, 0.0) / self._energy

    def remove(self, gone: Array) -> None:
        """Takes the sets `gone` (a mask) away, and refits."""
        taken = [rows[gone[sets]].reshape(-1) for sets, rows in self._parts]
        inputs = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
        self._parts = [(sets[~gone[sets]], rows[~gone[sets]]) for sets, rows in self._parts]
        self._parts = [(sets, rows) for sets, rows in self._parts if len(sets)]
        if not self._parts or not len(inputs):
            return
        columns = self._inverse[:, inputs]
        block = columns[inputs]
        self._weight -= columns @ np.linalg.solve(block, self._weight[inputs])
        self._inverse -= columns @ np.linalg.solve(block, columns.T)
        self._left[inputs] = False
        if self._left.mean() < COMPACT:
            self._compact()

    def _compact(self) -> None:
        left = np.flatnonzero(self._left)
        place = np.cumsum(self._left) - 1
        self._inverse = self._inverse[np.ix_(left, left)]
        self._weight = self._weight[left]
        self._parts = [(sets, place[rows]) for sets, rows in self._parts]
        self._left = np.ones(len(left), dtype=bool)


def removal_costs(problems: Sequence[Problem], count: int, portion: int = PORTION) -> Array:
    """What each of `count` sets costs when it goes: the rise of the error, summed over `problems`.

    Always those go next that cost least then. A set never costs less than one before it, so that
    sorting by cost gives the order.

    Returns:
        float64 [count].
    """
    costs = np.zeros(count)
    left = np.ones(count, dtype=bool)
    least = 0.0
    while left.any():
        rises = np.zeros(count)
        for problem in problems:
            problem.add_rises(rises)
        number = max(1, int(np.count_nonzero(left)) // portion)
        order = np.flatnonzero(left)
        order = order[np.argsort(rises[order], kind="stable")][:number]
        for place in order.tolist():
            least = max(float(rises[place]), least * (1 + 1e-9))
            costs[place] = least
        gone = np.zeros(count, dtype=bool)
        gone[order] = True
        left &= ~gone
        for problem in problems:
            problem.remove(gone)
    return costs
