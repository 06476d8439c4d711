"""Running a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import check, count_nodes
from graphopt.pipeline.base import Need, Pass, PassContext, PassResult, check_invariants
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
    details: dict[str, object]
    nodes_before: int
    nodes_after: int


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
) -> RunResult:
    """Runs `pipeline` over a copy of `model` that shares its weights; `model` is not changed.

    Raises:
        GraphoptError: before anything runs, if the order of stages goes back (unless
            `any_order`), or a pass needs what the context lacks; later, if a pass fails.
    """
    if not any_order:
        check_order(pipeline)
    check_needs(pipeline, context)
    runner = _Runner(context, instruments)
    copy = model.clone()
    for instrument in instruments:
        instrument.start(copy)
    copy = runner.steps(pipeline.steps, copy)
    for instrument in instruments:
        instrument.end(copy)
    return RunResult(copy, tuple(runner.records))


def check_needs(pipeline: Pipeline, context: PassContext) -> None:
    """Raises GraphoptError if a pass needs what `context` does not have."""
    have = {
        Need.CALIBRATION: context.calibration is not None,
        Need.EVALUATION: context.evaluation is not None,
    }
    how = {
        Need.CALIBRATION: "give representative samples (--calib SRC)",
        Need.EVALUATION: "give labelled data and a metric (--eval SRC)",
    }
    for step in pipeline.passes():
        for need in step.required():
            if not have[need]:
                raise GraphoptError(
                    f"needs {need.value}", where=f"pass '{step.name}'", fix=how[need]
                )


class _Runner:
    def __init__(self, context: PassContext, instruments: Sequence[Instrument]) -> None:
        self._context = context
        self._instruments = instruments
        self.records: list[StepRecord] = []

    def steps(self, steps: Iterable[Pass | Repeat], model: ir.Model) -> ir.Model:
        for step in steps:
            model = (
                self._repeat(step, model) if isinstance(step, Repeat) else self._pass(step, model)
            )
        return model

    def _repeat(self, repeat: Repeat, model: ir.Model) -> ir.Model:
        for _ in range(repeat.options.max):
            first = len(self.records)
            model = self.steps(repeat.body.steps, model)
            if not any(record.modified for record in self.records[first:]):
                break
        return model

    def _pass(self, step: Pass, model: ir.Model) -> ir.Model:
        check_invariants(step, model, step.requires, "before")
        for instrument in self._instruments:
            instrument.before(step, model)
        nodes_before = count_nodes(model)
        try:
            result = step.run(model, self._context)
        except GraphoptError as error:
            if error.where is None:
                error.where = f"pass '{step.name}'"
            raise
        check(result.model, where=f"the result of pass '{step.name}'")
        check_invariants(step, result.model, step.ensures, "after")
        self.records.append(
            StepRecord(
                step=step,
                modified=result.modified,
                rewrites=dict(result.rewrites),
                notes=tuple(result.notes),
                details=dict(result.details),
                nodes_before=nodes_before,
                nodes_after=count_nodes(result.model),
            )
        )
        for instrument in self._instruments:
            instrument.after(step, result)
        return result.model
