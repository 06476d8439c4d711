"""How many channels each group loses, so that a model gets to a cost with the least damage.

Greedy: the next step is always the one with the least expected damage for what it saves: in time,
where the goal is one of MACs and the pace of the target is known. Damage is measured per group (see
`sensitivity`), and only shared out within a group by the scores: those of different groups say
nothing about one another.
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
from graphopt_passes.prune_channels.groups import Cut, Group, spread, step_of
from graphopt_passes.prune_channels.labelling import Labelling

Array: TypeAlias = "NDArray[Any]"

FLOOR = 0.2
"""The share of the channels of a group that stays in any case."""
LEAST, MOST = 1e-9, 1e9
"""Damage between these is told apart; a model that gives no numbers any more did the most."""


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
    def of(
        group: Group, scores: Mapping[int, float], align: int, whole: int | None = None
    ) -> Ladder:
        """Counts are multiples of `align` positions, or all; not below the floor.

        Args:
            whole: how many channels a block had in the beginning, if some have gone before.
        """
        size = len(group.blocks[0])
        step = step_of(group, align)
        least = -(-max(1, math.ceil(FLOOR * (whole or size) - 1e-9)) // step) * step
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
    return spread(found, gone)


def damages(ladder: Ladder, measured: Mapping[int, float]) -> Array:
    """The damage expected at each step of a ladder, from that `measured` at some of them.

    Up to the first measurement it grows as the sum of the scores that have gone. From one to the
    next it grows by the same factor at each step, which is what measurements at many steps show.
    """
    steps = sorted(measured)
    known = np.maximum.accumulate([min(max(measured[s], LEAST), MOST) for s in steps])
    curve = np.zeros(len(ladder.kept))
    if not steps:
        return curve
    sums = ladder.scores[: steps[0] + 1]
    even = np.linspace(0.0, 1.0, len(sums))
    curve[: len(sums)] = known[0] * (sums / sums[-1] if sums[-1] > 0 else even)
    curve[steps[0] :] = np.exp(np.interp(np.arange(steps[0], len(curve)), steps, np.log(known)))
    return curve


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
        following = _move(budget, number, steps[number], ladder, curve, lengths)
        if following[0] < math.inf:
            heapq.heappush(heap, (following[0], number))
        if left <= goal:
            # What several nodes share is only counted here.
            left = float(budget.left(cut_of(found, ladders, steps)))
    _take_back(found, budget, ladders, curves, steps, goal)
    return cut_of(found, ladders, steps)


def _take_back(
    found: Labelling,
    budget: Budget,
    ladders: Sequence[Ladder],
    curves: Sequence[Array],
    steps: list[int],
    goal: float,
) -> None:
    """Takes back the steps that the last and largest ones made needless, the most harmful first."""
    if budget.left(cut_of(found, ladders, steps)) >= goal:
        return
    taken = [
        (curve[step] - curve[step - 1], number)
        for number, (curve, last) in enumerate(zip(curves, steps, strict=True))
        for step in range(1, last + 1)
    ]
    # Within a ladder only the last step can be taken back, so a number stands for that. Where that
    # is too much it stays so, for what is left only grows.
    held: set[int] = set()
    for number in [number for _, number in sorted(taken, reverse=True)]:
        if number in held:
            continue
        steps[number] -= 1
        if budget.left(cut_of(found, ladders, steps)) > goal:
            steps[number] += 1
            held.add(number)


def _move(
    budget: Budget, number: int, step: int, ladder: Ladder, curve: Array, lengths: Array
) -> tuple[float, float, Array]:
    """Of the next step down a ladder: damage per time, the saving, and the lengths after it.

    Without a pace, time is the saving.
    """
    if step + 1 >= len(ladder.kept):
        return math.inf, 0.0, lengths
    lost = ladder.gone(step + 1) & ~ladder.gone(step)
    after = budget.without(number, lost.astype(np.float64), lengths)
    saved = budget.saved(number, lengths, after)
    time = budget.time_saved(number, lengths, after)
    if saved <= 0 or time <= 0:
        return math.inf, 0.0, lengths
    damage = float(curve[step + 1] - curve[step])
    return damage / time, saved, after
