"""The job of `graphopt sensitivity`: what it costs to quantize each layer alone."""

from __future__ import annotations

import os

from graphopt.data.evaluation import open_evaluation
from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.jobs.asking import answer, asking
from graphopt.pipeline.base import PassContext
from graphopt.pipeline.text import check_order, parse
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
    pipeline = asking(
        parse(passes), OPTION, lacking="no pass in it quantizes", fix="end it with quantize"
    )
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
    record, table = answer(pipeline, model, context, OPTION)
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
