"""What a search by measurement has to reach: a ratio of signal to noise, or a score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.base import PassContext
from graphopt.progress import Quiet
from graphopt.runtime.session import Session
from graphopt_passes.quantize.judge import Judge


@dataclass(frozen=True)
class Goal:
    """What the changed model has to reach.

    Attributes:
        measure: the figure of a model, the higher the better.
        least: what it must be at least.
        demand: that, as the user wrote it.
        shown: a figure, for people.
    """

    measure: Callable[[ir.Model], float]
    least: float
    demand: str
    shown: Callable[[float], str]


def goal_of(
    min_sqnr: float | None,
    max_drop: float | None,
    model: ir.Model,
    judge: Judge,
    context: PassContext,
    *,
    where: str,
) -> Goal | None:
    """The goal that the options of a pass name; None if neither is given.

    Args:
        model: the model before the change, whose score must not fall by more than `max_drop`.
        where: the pass, for an error.

    Raises:
        GraphoptError: if `max_drop` is given, but no evaluation.
    """
    if min_sqnr is not None:
        demand = f"min_sqnr={min_sqnr:g}"
        return Goal(judge.sqnr, min_sqnr, demand, lambda figure: f"{figure:.1f} dB")
    if max_drop is None:
        return None
    evaluation = context.evaluation
    if evaluation is None:
        raise GraphoptError("max_drop needs an evaluation", where=where, fix="give --eval SOURCE")
    quiet = Quiet()  # the search has a bar of its own
    before = evaluation.score(Session(model).run, quiet)
    return Goal(
        lambda changed: evaluation.score(Session(changed).run, quiet),
        before - max_drop - 1e-9 * max(1.0, abs(before)),
        f"max_drop={max_drop:g}",
        lambda figure: f"{evaluation.metric} {figure:.2f} (before: {before:.2f})",
    )
