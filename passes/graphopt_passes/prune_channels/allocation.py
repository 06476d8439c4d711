"""How many channels each group loses, so that a model gets to a cost with the least damage.

Greedy: the next step is always the one with the least expected damage for what it saves. Damage
is measured per group (see `sensitivity`), and only shared out within a group by the scores: those
of different groups say nothing about one another.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt_passes.prune_channels.budget import Budget
from graphopt_passes.prune_channels.groups import Cut, Group, step_of
from graphopt_passes.prune_channels.labelling import Labelling

Array: TypeAlias = "NDArray[Any]"

FLOOR = 0.2
"""The share of the channels of a group that stays in any case."""


@dataclass(frozen=True)
class Ladder:
    """The cuts that a group can have: ever fewer channels, the lowest scores first.

    Attributes:
        atoms: of the group, in the order of `Group.atoms`.
        ranks: for each of them, how many of its block go before it.
        kept: how many of each block stay, at each step; the first is all.
        scores: the sum of the scores of what has gone, at each step.
    """

    atoms: Array
    ranks: Array
    kept: tuple[int, ...]
    scores: Array

    @staticmethod
    def of(group: Group, scores: Mapping[int, float], align: int) -> Ladder:
        """Counts are multiples of `align` positions, or all; not below the floor."""
        size = len(group.blocks[0])
        step = step_of(group, align)
        least = -(-max(1, math.ceil(FLOOR * size - 1e-9)) // step) * step
        kept = (size, *(n for n in range(size - 1, 0, -1) if n % step == 0 and n >= least))
        ranks, sums = [], np.zeros(size + 1)
        for block in group.blocks:
            values = [(scores[atom], atom) for atom in block.tolist()]
            order = sorted(range(size), key=values.__getitem__)
            rank = np.empty(size, dtype=np.int64)
            rank[order] = np.arange(size)
            ranks.append(rank)
            sums[1:] += np.cumsum([values[place][0] for place in order])
        lost = [size - n for n in kept]
        return Ladder(group.atoms, np.concatenate(ranks), kept, sums[lost])

    def gone(self, step: int) -> Array:
        """Which of the atoms have gone after so many steps."""
        return self.ranks < self.kept[0] - self.kept[step]


def cut_of(found: Labelling, ladders: Sequence[Ladder], steps: Sequence[int]) -> Cut:
    """The cut after so many steps down each ladder."""
    gone = np.zeros(len(found.atoms), dtype=bool)
    for ladder, step in zip(ladders, steps, strict=True):
        gone[ladder.atoms[ladder.gone(step)]] = True
    return Cut(gone[found.atoms.roots(np.arange(len(found.atoms), dtype=np.int64))])


def damages(ladder: Ladder, measured: Mapping[int, float]) -> Array:
    """The damage expected at each step of a ladder, from that `measured` at some of them.

    Between two measurements it grows as the scores do. It never grows more slowly than before:
    where measurements say so, the mean of both stretches holds.
    """
    known = [(0, 0.0), *sorted(measured.items())]
    pieces = [
        [end - start, max(damage - before, 0.0)]
        for (start, before), (end, damage) in zip(known, known[1:], strict=False)
    ]
    rising: list[list[float]] = []
    for piece in pieces:
        rising.append(piece)
        while len(rising) > 1 and rising[-2][1] * rising[-1][0] > rising[-1][1] * rising[-2][0]:
            steps, damage = rising.pop()
            rising[-1] = [rising[-1][0] + steps, rising[-1][1] + damage]
    result, at = [0.0], 0
    for steps, damage in rising:
        sums = ladder.scores[at : at + int(steps) + 1] - ladder.scores[at]
        shares = sums / sums[-1] if sums[-1] > 0 else np.linspace(0, 1, len(sums))
        result += (result[at] + damage * shares[1:]).tolist()
        at += int(steps)
    return np.array(result)


def allocate(
    found: Labelling,
    budget: Budget,
    ladders: Sequence[Ladder],
    curves: Sequence[Array],
    goal: float,
) -> Cut:
    """The greedy cut that leaves at most `goal` of the budget, or as little as there can be.

    Args:
        curves: for each ladder its `damages`.
    """
    steps = [0] * len(ladders)
    lengths = budget.full
    left = float(budget.whole)
    moves = [_move(budget, n, 0, ladders[n], curves[n], lengths) for n in range(len(ladders))]
    heap = [(rate, n) for n, (rate, _, _) in enumerate(moves) if rate < math.inf]
    heapq.heapify(heap)
    while heap and left > goal:
        _, number = heapq.heappop(heap)
        ladder, curve = ladders[number], curves[number]
        # What others have lost since has made this step save less, never more.
        rate, saved, after = _move(budget, number, steps[number], ladder, curve, lengths)
        if heap and rate > heap[0][0]:
            heapq.heappush(heap, (rate, number))
            continue
        steps[number] += 1
        lengths, left = after, left - saved
        if steps[number] + 1 < len(ladder.kept):
            following = _move(budget, number, steps[number], ladder, curve, lengths)
            heapq.heappush(heap, (following[0], number))
        if left <= goal:
            # What several nodes share is only counted here.
            left = float(budget.left(cut_of(found, ladders, steps)))
    return cut_of(found, ladders, steps)


def _move(
    budget: Budget, number: int, step: int, ladder: Ladder, curve: Array, lengths: Array
) -> tuple[float, float, Array]:
    """Of the next step down a ladder: damage per saving, the saving, and the lengths after it."""
    if step + 1 >= len(ladder.kept):
        return math.inf, 0.0, lengths
    lost = ladder.gone(step + 1) & ~ladder.gone(step)
    after = budget.without(number, lost.astype(np.float64), lengths)
    saved = budget.saved(number, lengths, after)
    damage = float(curve[step + 1] - curve[step])
    return damage / max(saved, 1e-9), saved, after
