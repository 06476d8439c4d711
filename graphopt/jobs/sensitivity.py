"""The job of `graphopt sensitivity`: what it costs to quantize each layer alone."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any

from graphopt.data.evaluation import open_evaluation
from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.pipeline.base import Pass, PassContext
from graphopt.pipeline.runner import run
from graphopt.pipeline.text import Pipeline, check_order, parse
from graphopt.progress import Progress, Quiet
from graphopt.report.model import LayerSensitivity, Sensitivity
from graphopt.targets import get_target

OPTION = "sensitivity"
"""The option by which a pass measures its layers, and the name of the table in its details."""
DEFAULT_PASSES = "quantize"


def measure_sensitivity(
    source: str | os.PathLike[str],
    passes: str = DEFAULT_PASSES,
    *,
    calibration: str,
    evaluation: str | None = None,
    target: str = "generic",
    jobs: int = 1,
    backend: str | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Runs a pipeline whose last quantizing pass measures what each layer costs.

    Args:
        source: the file of the model.
        passes: a pipeline as text; see `graphopt.optimize`.
        calibration: representative samples; see `graphopt.data.samples.open_samples`.
        jobs, backend: in how many processes, or where, to calibrate; see `graphopt.optimize`.
        evaluation: for passes that need one; see `graphopt.data.evaluation.open_evaluation`.

    Raises:
        GraphoptError: for bad input, or if no pass measures, or nothing can be quantized.
    """
    pipeline = measuring(parse(passes))
    check_order(pipeline)
    model = load(source)
    specs = input_specs(model)
    context = PassContext(
        get_target(target),
        open_samples(calibration, specs),
        None if evaluation is None else open_evaluation(evaluation, specs),
        progress or Quiet(),
        jobs,
        backend,
    )
    result = run(pipeline, model, context)
    record = next(step for step in reversed(result.steps) if _can_measure(step.step))
    table: Any = record.details.get(OPTION)
    if table is None:
        raise GraphoptError(
            f"pass '{record.step.name}' finds nothing to quantize", where=str(source)
        )
    return Sensitivity(
        source=str(source),
        pipeline=str(pipeline),
        target=target,
        calibration=context.calibration.description if context.calibration else "",
        data=table["data"],
        samples=table["samples"],
        everywhere_db=table["everywhere_db"],
        layers=tuple(LayerSensitivity(**row) for row in table["layers"]),
        notes=record.notes,
        unmet=record.unmet,
    )


def measuring(pipeline: Pipeline) -> Pipeline:
    """`pipeline` with the option to measure set in its last pass that has it.

    Raises:
        GraphoptError: if there is none.
    """
    steps = list(pipeline.steps)
    for index in reversed(range(len(steps))):
        step = steps[index]
        if isinstance(step, Pass) and _can_measure(step):
            steps[index] = replace(step, **{OPTION: True})
            return Pipeline(tuple(steps))
    raise GraphoptError(
        "no pass in it quantizes", where=f"pipeline '{pipeline}'", fix="end it with quantize"
    )


def _can_measure(step: Pass) -> bool:
    return any(field.name == OPTION for field in fields(step))
