"""Running a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import check
from graphopt.pipeline.base import (
    Declined,
    Effect,
    Need,
    Pass,
    PassContext,
    PassResult,
    check_invariants,
)
from graphopt.pipeline.text import Pipeline, Repeat, check_order


class Instrument(Protocol):
    """Something that watches a run: verifies, times, dumps. Passes know nothing of it."""

    def start(self, model: ir.Model) -> None:
        """Before the first pass."""

    def before(self, step: Pass, model: ir.Model) -> None:
        """Before a pass; `model` must not be changed."""

    def after(self, step: Pass, result: PassResult) -> None:
        """After a pass whose result is a valid model."""

    def end(self, model: ir.Model) -> None:
        """After the last pass."""


@dataclass(frozen=True)
class StepRecord:
    """What one run of one pass did."""

    step: Pass
    modified: bool
    rewrites: dict[str, int]
    notes: tuple[str, ...]
    declined: tuple[Declined, ...]
    details: dict[str, object]
    nodes_before: int
    nodes_after: int
    unmet: str | None


@dataclass(frozen=True)
class RunResult:
    """The model that came out, and what each pass did on the way."""

    model: ir.Model
    steps: tuple[StepRecord, ...]

    @property
    def modified(self) -> bool:
        return any(step.modified for step in self.steps)


def run(
    pipeline: Pipeline,
    model: ir.Model,
    context: PassContext,
    instruments: Sequence[Instrument] = (),
    *,
    any_order: bool = False,
    reload: Callable[[], ir.Model] | None = None,
) -> RunResult:
    """Runs `pipeline` over a copy of `model` that shares its weights; `model` is not changed.

    Args:
        reload: gives `model` once more. With it no copy is made: `model` itself is changed.

    Raises:
        GraphoptError: before anything runs, if the order of stages goes back (unless
            `any_order`), or a pass needs what the context lacks; later, if a pass fails.
    """
    if not any_order:
        check_order(pipeline)
    check_needs(pipeline, context)
    runner = _Runner(context, instruments)
    copy = model if reload else model.clone()
    for instrument in instruments:
        instrument.start(copy)
    copy = runner.steps(pipeline.steps, copy)
    try:
        runner.check(copy)
    except GraphoptError:
        again = reload() if reload else model.clone()
        _Runner(context, (), check_each=True).steps(pipeline.steps, again)
        raise  # not reached unless a pass is not deterministic
    for instrument in instruments:
        instrument.end(copy)
    return RunResult(copy, tuple(runner.records))


def check_needs(pipeline: Pipeline, context: PassContext) -> None:
    """Raises GraphoptError if a pass needs what `context` does not have."""
    have = {
        Need.CALIBRATION: context.calibration is not None,
        Need.RANGES: context.calibration is not None
        or (context.ranges is not None and context.ranges.exists()),
        Need.EVALUATION: context.evaluation is not None,
    }
    how = {
        Need.CALIBRATION: "give representative samples (--calib SRC)",
        Need.RANGES: "give representative samples (--calib SRC)",
        Need.EVALUATION: "give labelled data and a metric (--eval SRC)",
    }
    for step in pipeline.passes():
        for need in step.required():
            if not have[need]:
                raise GraphoptError(
                    f"needs {need.value}", where=f"pass '{step.name}'", fix=how[need]
                )


class _Runner:
    """Runs steps over a model.

    Exact passes are checked together at the end; where that fails, the run is repeated with
    `check_each`, which names the pass.
    """

    def __init__(
        self, context: PassContext, instruments: Sequence[Instrument], *, check_each: bool = False
    ) -> None:
        self._context = context
        self._instruments = instruments
        self._check_each = check_each
        self._unchecked: list[str] = []
        self._version = 0
        self._settled: dict[Pass, int] = {}
        """Exact passes, and the version of the model on which each has found nothing to do."""
        self.records: list[StepRecord] = []

    def steps(self, steps: Iterable[Pass | Repeat], model: ir.Model) -> ir.Model:
        for step in steps:
            model = (
                self._repeat(step, model) if isinstance(step, Repeat) else self._pass(step, model)
            )
        return model

    def _repeat(self, repeat: Repeat, model: ir.Model) -> ir.Model:
        for _ in range(repeat.options.max):
            before = self._version
            model = self.steps(repeat.body.steps, model)
            if self._version == before:
                break
        return model

    def _pass(self, step: Pass, model: ir.Model) -> ir.Model:
        if self._settled.get(step) == self._version:
            return model
        check_invariants(step, model, step.requires, "before")
        if step.effect is Effect.LOSSY:
            self.check(model)
        for instrument in self._instruments:
            instrument.before(step, model)
        nodes_before = len(self._context.analyses.nodes(model))
        try:
            result = step.run(model, self._context)
        except GraphoptError as error:
            if error.where is None:
                error.where = f"pass '{step.name}'"
            raise
        if not isinstance(result, PassResult):
            raise GraphoptError(
                f"its run returned {type(result).__name__}, not a PassResult",
                where=f"pass '{step.name}'",
                fix="return PassResult(model, modified)",
            )
        if result.modified or result.model is not model:
            self._version += 1
            self._unchecked.append(step.name)
            self._context.analyses.changed(keeps_facts=step.keeps_facts)
        if step.effect is Effect.LOSSY or self._check_each:
            self.check(result.model)
        if step.effect is Effect.EXACT and not result.modified:
            self._settled[step] = self._version
        check_invariants(step, result.model, step.ensures, "after")
        nodes_after = len(self._context.analyses.nodes(result.model))
        self.records.append(_record(step, result, nodes_before, nodes_after))
        for instrument in self._instruments:
            instrument.after(step, result)
        return result.model

    def check(self, model: ir.Model) -> None:
        """Raises GraphoptError if the passes since the last check have left no valid model."""
        if self._unchecked:
            names = ", ".join(dict.fromkeys(self._unchecked))
            plural = "es" if len(set(self._unchecked)) > 1 else ""
            check(model, where=f"the result of pass{plural} '{names}'")
            self._unchecked.clear()


def _record(step: Pass, result: PassResult, nodes_before: int, nodes_after: int) -> StepRecord:
    return StepRecord(
        step=step,
        modified=result.modified,
        rewrites=dict(result.rewrites),
        notes=tuple(result.notes),
        declined=tuple(result.declined),
        details=dict(result.details),
        nodes_before=nodes_before,
        nodes_after=nodes_after,
        unmet=result.unmet,
    )
