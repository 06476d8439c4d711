"""A model that is cut once or in several rounds: what is known of it before each cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.pipeline.base import PassContext
from graphopt.reconstruction import Refit
from graphopt.targets import Pace
from graphopt_passes.prune_channels.allocation import Ladder, allocate, cut_of, damages
from graphopt_passes.prune_channels.budget import Budget, Quantity
from graphopt_passes.prune_channels.groups import Cut, Group, choose, find_groups, is_scored, spread
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.scores import score
from graphopt_passes.prune_channels.selfcheck import Check
from graphopt_passes.prune_channels.sensitivity import Sensitivity, measure_groups

if TYPE_CHECKING:
    from graphopt_passes.prune_channels import PruneChannels

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Task:
    """What does not change from round to round.

    Attributes:
        teacher: the model that was given, ready to be cut.
        found, groups: of the teacher.
        align: counts are multiples of this.
        pace: of the target; None where it is not known for counts that are multiples of `align`.
        refits: whether the weights that are left make up for those that go.
    """

    options: PruneChannels
    context: PassContext
    teacher: ir.Model
    found: Labelling
    groups: list[Group]
    align: int
    pace: Pace | None
    refits: bool


@dataclass(frozen=True)
class Pruned:
    """A model that is cut, and refitted where that is asked for.

    Attributes:
        cut: what has gone in all, in the atoms of the teacher.
        check: of the last round; None where ONNX Runtime cannot run the model.
    """

    model: ir.Model
    cut: Cut
    check: Check | None
    refit: Refit


class Stage:
    """The teacher after some cuts, refitted: scored and measured as it is now."""

    def __init__(
        self, task: Task, model: ir.Model, found: Labelling, gone: Cut | None = None
    ) -> None:
        """Scores the channels that are left.

        Args:
            found: of `model`.
            gone: what `model` lacks, in the atoms of the teacher; nothing by default.
        """
        self._task = task
        self.model = model
        self.found = found
        self.gone = gone or Cut(np.zeros(len(task.found.atoms), dtype=bool))
        self._origins: dict[int, list[int]] = {}
        """For each atom those of the teacher that it stands for."""
        if found is task.found:
            self.groups = task.groups
            self._origins = {atom: [atom] for g in self.groups for atom in g.atoms.tolist()}
        else:
            twins = _twins(task.found, found, self.gone)
            groups = find_groups(found)
            for old, new in twins.items():
                self._origins.setdefault(found.atoms.find(new), []).append(old)
            known = self._origins.keys()
            self.groups = [group for group in groups if known >= set(group.atoms.tolist())]
        self.scores = score(task.options, model, found, self.groups, task.context)
        self.scored = [group for group in self.groups if is_scored(group, self.scores)]

    def uniform(self, ratio: float) -> Cut:
        """Cuts so that each group has lost the share `ratio` of what it had in the teacher."""
        wholes = [self._whole(group) for group in self.groups]
        return choose(self.found, self.groups, self.scores, ratio, self._task.align, wholes)

    def allocated(self, goal: float, quantity: Quantity) -> Cut:
        """Cuts so that at most `goal` is left of a quantity, with the least damage."""
        budget = self.budget(quantity)
        return allocate(self.found, budget, self.ladders, self._curves, goal)

    def least(self, quantity: Quantity) -> int:
        """How much of a quantity is left if every group loses all that it may."""
        last = [len(ladder.kept) - 1 for ladder in self.ladders]
        return self.budget(quantity).left(cut_of(self.found, self.ladders, last))

    def budget(self, quantity: Quantity) -> Budget:
        if quantity not in self._budgets:
            self._budgets[quantity] = Budget(
                self.model, self.found, self.scored, quantity, self._task.pace
            )
        return self._budgets[quantity]

    @cached_property
    def _budgets(self) -> dict[Quantity, Budget]:
        return {}

    def merged(self, cut: Cut) -> Cut:
        """`cut` of this stage and all before it, in the atoms of the teacher."""
        gone = self.gone.gone.copy()
        for atom in self.found.atoms.free(np.nonzero(cut.gone)[0]).tolist():
            gone[self._origins[atom]] = True
        return spread(self._task.found, gone)

    @cached_property
    def ladders(self) -> list[Ladder]:
        """Of the groups that have scores."""
        return [
            Ladder.of(group, self.scores, self._task.align, self._whole(group))
            for group in self.scored
        ]

    @cached_property
    def sensitivities(self) -> list[Sensitivity]:
        """Of the groups that have scores."""
        task = self._task
        assert task.context.calibration is not None
        return measure_groups(
            self.model, self.found, self.ladders, task.context.calibration,
            task.options.samples, refit=task.refits, progress=task.context.progress,
        )  # fmt: skip

    @cached_property
    def _curves(self) -> list[Array]:
        measured = [sensitivity.damages for sensitivity in self.sensitivities]
        return list(map(damages, self.ladders, measured))

    def _whole(self, group: Group) -> int:
        """How many atoms a block of `group` had in the teacher."""
        old = self._origins[int(group.blocks[0][0])][0]
        return self._sizes.get(old, len(group.blocks[0]))

    @cached_property
    def _sizes(self) -> dict[int, int]:
        """For each atom of the teacher that can go, how many a block of its group has there."""
        groups = self._task.groups
        return {atom: len(group.blocks[0]) for group in groups for atom in group.atoms.tolist()}


def _twins(teacher: Labelling, found: Labelling, gone: Cut) -> dict[int, int]:
    """For each free atom of the teacher that is left, one of the cut model in the same places.

    What is tied or frozen in the teacher becomes so in `found`.
    """
    twins: dict[int, int] = {}
    for name, axes in found.labels.items():
        for before, after in zip(teacher.labels.get(name, ()), axes, strict=False):
            if not len(teacher.atoms.free(before)) and not len(found.atoms.free(after)):
                continue
            kept = teacher.atoms.roots(before[gone.keep(before)])
            for old, new in dict.fromkeys(zip(kept.tolist(), after.tolist(), strict=True)):
                reason = teacher.atoms.reason(old)
                if reason is None:
                    pair = np.array([new, twins.setdefault(old, new)], dtype=np.int64)
                    found.atoms.tie_all(pair)
                else:
                    found.atoms.freeze(np.array([new]), reason)
    return twins
