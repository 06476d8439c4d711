"""Getting a model to the target that the user names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphopt.data.feeds import batches, input_specs
from graphopt.errors import GraphoptError
from graphopt.progress import Quiet
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels.allocation import FLOOR
from graphopt_passes.prune_channels.apply import cut_channels
from graphopt_passes.prune_channels.budget import TITLES, Quantity, amount, count_cost
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.search import (
    NOISE,
    DropSearch,
    LatencySearch,
    compared,
    saving,
    told,
)
from graphopt_passes.prune_channels.stages import Pruned, Stage, Task
from graphopt_passes.prune_channels.targets import Target

Choice: TypeAlias = "Callable[[Stage, float], Cut]"
"""What to cut from a stage to get so much of the way, up to 1, from the teacher to the target."""

CORRECTIONS = 2
"""So often a goal is lowered by what refitting has added to the model: biases, that is."""
KEEPS = f"each group keeps at least {FLOOR:.0%} of its channels, in multiples of the alignment"


@dataclass(frozen=True)
class Reached:
    """What came of a target; see `PassResult` for `notes`, `details` and `unmet`."""

    pruned: Pruned
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    unmet: str | None = None


def reach(target: Target, task: Task, first: Stage, prune: Callable[[Choice], Pruned]) -> Reached:
    """Cuts `first`, the stage at which nothing has gone, until the target is met.

    Args:
        prune: cuts and refits, in as many rounds as the user wants.

    Raises:
        GraphoptError: if a target needs data that is not there, or ONNX Runtime to run the model.
    """
    if target.kind == "ratio":
        return Reached(prune(lambda stage, way: stage.uniform(1 - (1 - target.value) ** way)))
    way = _Way(target, task, first, prune)
    if target.kind == "max_drop":
        return way.to_drop()
    if target.kind == "latency":
        return way.to_latency()
    return way.to_amount(target.quantity)


@dataclass(frozen=True)
class _Way:
    target: Target
    task: Task
    first: Stage
    prune: Callable[[Choice], Pruned]

    def to_amount(self, quantity: Quantity) -> Reached:
        """For params, macs and bytes."""
        whole, least = self.first.budget(quantity).whole, self.first.least(quantity)
        wanted = goal = self.target.goal(whole)
        title = TITLES[quantity]
        for _ in range(CORRECTIONS + 1):
            pruned = self._prune_to(goal, quantity)
            cost = count_cost(pruned.model, self.task.found, pruned.cut)
            left = amount(cost, quantity)
            if left <= wanted or least > goal:
                break
            goal -= left - wanted
        details = {"target": {"demand": str(self.target), "most": wanted, "left": left}}
        if left > wanted:
            unmet = (
                f"{self.target} asks for {wanted:,.0f} {title}, {left:,} are left: {KEEPS}"
                f"{self.target.perhaps_meant()}"
            )
            return Reached(pruned, details=details, unmet=unmet)
        return Reached(pruned, (f"{self.target}: {whole:,} {title}, {left:,} are left",), details)

    def to_drop(self) -> Reached:
        evaluation = self.task.context.evaluation
        if evaluation is None:
            raise GraphoptError(
                "max_drop needs an evaluation", where="prune-channels", fix="give --eval SOURCE"
            )
        before = evaluation.score(Session(self.task.teacher).run, Quiet())
        search = DropSearch(
            lambda share: self._prune_to((1 - share) * self._macs, "macs"),
            self._most, evaluation, before, self.target.value,
        )  # fmt: skip
        best, pruned = search.run(self.task.context.progress)
        left = amount(count_cost(pruned.model, self.task.found, pruned.cut), "macs")
        figures = (
            f"{1 - left / self._macs:.1%} of the MACs cut, {evaluation.metric} {best.figure:.2f} "
            f"(before: {before:.2f}); cuts tried: {len(search.trials)}"
        )
        details = {
            "search": {
                "demand": str(self.target),
                "before": before,
                "met": best.met,
                "trials": [trial.row() for trial in search.trials],
            }
        }
        table = told(search.trials, lambda score: f"{evaluation.metric} {score:.2f}")
        if best.met:
            return Reached(pruned, (*table, f"{self.target}: {figures}"), details)
        return Reached(pruned, table, details, unmet=f"no cut keeps {self.target}: {figures}")

    def to_latency(self) -> Reached:
        original, samples = self.task.teacher, self.task.context.calibration
        assert samples is not None
        feed = next(batches(samples, input_specs(original), 1, 1))[0]
        search = LatencySearch(
            original,
            lambda share: cut_channels(
                original, self.task.found, self.first.allocated((1 - share) * self._macs, "macs")
            ),
            self._most, self.target.value, feed,
        )  # fmt: skip
        share = search.run(self.task.context.progress)
        pruned = self._prune_to((1 - share) * self._macs, "macs")
        times = compared(original, pruned.model, feed)
        met = saving(times) >= self.target.value - NOISE
        shown = (
            f"a run of one sample in ONNX Runtime took {times[0]:.3g} ms, takes {times[1]:.3g} ms "
            f"({-saving(times):+.1%}); cuts timed: {len(search.trials)}"
        )
        details = {
            "latency": {
                "demand": str(self.target),
                "before_ms": times[0],
                "after_ms": times[1],
                "met": met,
                "trials": [trial.row() for trial in search.trials],
            }
        }
        table = told(search.trials, lambda saved: f"{saved:.1%} of the time saved")
        if met:
            return Reached(pruned, (*table, shown), details)
        return Reached(pruned, table, details, unmet=f"{self.target}: {shown}; {KEEPS}")

    @property
    def _macs(self) -> int:
        return self.first.budget("macs").whole

    @property
    def _most(self) -> float:
        """The greatest share of the MACs that can be cut."""
        return 1 - self.first.least("macs") / max(self._macs, 1)

    def _prune_to(self, goal: float, quantity: Quantity) -> Pruned:
        whole = self.first.budget(quantity).whole

        def choice(stage: Stage, way: float) -> Cut:
            there = goal if way == 1 else whole * (max(goal, 1) / whole) ** way
            return stage.allocated(there, quantity)

        return self.prune(choice)
