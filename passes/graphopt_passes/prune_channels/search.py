"""How many MACs have to go, or may go, where that can only be found out by trying."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphopt.data.evaluation import Evaluation
from graphopt.data.feeds import Feed
from graphopt.progress import Progress, Quiet
from graphopt.runtime.latency import latencies
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels.stages import Pruned

STEPS = 7
"""So many models are tried: the share of the MACs to cut is then known to about 0.7 points."""
REPEATS = 3
"""So often the latency of the result is measured; the median counts."""
NOISE = 0.02
"""A share of the latency that differs by less is the same: measurements do not repeat better."""


@dataclass(frozen=True)
class Trial:
    """A model that was tried.

    Attributes:
        share: of the MACs, that was to go.
        figure: its score, or the share of the latency that it saves.
        met: whether that is enough.
    """

    share: float
    figure: float
    met: bool

    def row(self) -> dict[str, Any]:
        return {"share_of_macs_cut": self.share, "figure": self.figure, "met": self.met}


@dataclass
class DropSearch:
    """The greatest cut with which the score of an evaluation falls by `max_drop` at most.

    Attributes:
        prune_to: makes the pruned and refitted model from which a share of the MACs has gone.
        most: the greatest share that there can be.
        before: the score of the original.
        best: the greatest cut that is good enough, or what came nearest.
    """

    prune_to: Callable[[float], Pruned]
    most: float
    evaluation: Evaluation
    before: float
    max_drop: float
    trials: list[Trial] = field(default_factory=list)
    best: tuple[Trial, Pruned] | None = None

    def run(self, progress: Progress) -> tuple[Trial, Pruned]:
        """Searches by bisection: a model that loses more than another is smaller, about."""
        good, bad = 0.0, self.most
        for _ in progress.track(range(STEPS), "choosing the cut", STEPS):
            trial = self._try((good + bad) / 2)
            good, bad = (trial.share, bad) if trial.met else (good, trial.share)
        assert self.best is not None
        return self.best

    def _try(self, share: float) -> Trial:
        pruned = self.prune_to(share)
        score = self.evaluation.score(Session(pruned.model).run, Quiet())
        slack = 1e-9 * max(1.0, abs(self.before))
        trial = Trial(share, score, score >= self.before - self.max_drop - slack)
        self.trials.append(trial)
        if self.best is None or _rank(trial) > _rank(self.best[0]):
            self.best = trial, pruned
        return trial


def _rank(trial: Trial) -> tuple[bool, float]:
    """Of those that are good enough the smallest comes last, of others the best."""
    return trial.met, trial.share if trial.met else trial.figure


@dataclass
class LatencySearch:
    """The smallest cut with which ONNX Runtime is faster by `wanted`, a share of the time.

    Attributes:
        cut_to: makes the model from which a share of the MACs has gone; refitted or not is as fast.
        most: the greatest share that there can be.
        feed: what the models are timed on.
    """

    original: ir.Model
    cut_to: Callable[[float], ir.Model]
    most: float
    wanted: float
    feed: Feed
    trials: list[Trial] = field(default_factory=list)

    def run(self, progress: Progress) -> float:
        """The share of the MACs to cut: all that can be, if not even that is enough."""
        slow, fast = 0.0, self.most
        if not self._try(fast):
            return fast
        for _ in progress.track(range(STEPS - 1), "measuring latency", STEPS - 1):
            middle = (slow + fast) / 2
            slow, fast = (slow, middle) if self._try(middle) else (middle, fast)
        return fast

    def _try(self, share: float) -> bool:
        saved = saving(latencies([self.original, self.cut_to(share)], self.feed))
        self.trials.append(Trial(share, saved, saved >= self.wanted))
        return saved >= self.wanted


def saving(times: list[float]) -> float:
    """By which share the second time is less than the first."""
    return 1 - times[1] / times[0]


def compared(original: ir.Model, pruned: ir.Model, feed: Feed) -> list[float]:
    """The latencies of both in milliseconds: those of the median of `REPEATS` measurements."""
    runs = [latencies([original, pruned], feed) for _ in range(REPEATS)]
    middle = statistics.median_low([saving(times) for times in runs])
    return next(times for times in runs if saving(times) == middle)
