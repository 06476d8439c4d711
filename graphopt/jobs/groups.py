"""The job of `graphopt groups`: which channels can be cut together, and what holds the others."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any

from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.pipeline.base import Pass, PassContext
from graphopt.pipeline.runner import run
from graphopt.pipeline.text import Pipeline, check_order, parse
from graphopt.progress import Progress, Quiet
from graphopt.report.groups import ChannelGroup, Groups, KeptChannels, Spread
from graphopt.targets import get_target

OPTION = "groups"
"""The option by which a pass lists its groups, and the name of the table in its details."""
DEFAULT_PASSES = "prune-channels{score=l1}"


def find_groups(
    source: str | os.PathLike[str],
    passes: str = DEFAULT_PASSES,
    *,
    calibration: str | None = None,
    target: str = "generic",
    progress: Progress | None = None,
) -> Groups:
    """Runs a pipeline whose last pruning pass lists its groups, and cuts nothing.

    Args:
        source: the file of the model.
        passes: a pipeline as text; see `graphopt.optimize`.
        calibration: for scores that need samples, and for models with free axes other than the
            batch; see `graphopt.data.samples.open_samples`.

    Raises:
        GraphoptError: for bad input, or if no pass lists groups.
    """
    pipeline = listing(parse(passes))
    check_order(pipeline)
    model = load(source)
    specs = input_specs(model)
    context = PassContext(
        get_target(target),
        None if calibration is None else open_samples(calibration, specs),
        None,
        progress or Quiet(),
    )
    result = run(pipeline, model, context)
    record = next(step for step in reversed(result.steps) if _can_list(step.step))
    table: Any = record.details[OPTION]
    return Groups(
        source=str(source),
        pipeline=str(pipeline),
        macs=table["macs"],
        parameters=table["parameters"],
        groups=tuple(
            ChannelGroup(
                row["group"],
                row["channels"],
                row["blocks"],
                tuple(row["made_by"]),
                tuple(row["read_by"]),
                row["macs"],
                row["parameters"],
                None if row["score"] is None else Spread(**row["score"]),
            )
            for row in table["groups"]
        ),
        kept=tuple(
            KeptChannels(row["reason"], row["channels"], tuple(row["weights"]))
            for row in table["kept"]
        ),
        notes=record.notes,
    )


def listing(pipeline: Pipeline) -> Pipeline:
    """`pipeline` with the option to list set in its last pass that has it.

    Raises:
        GraphoptError: if there is none.
    """
    steps = list(pipeline.steps)
    for index in reversed(range(len(steps))):
        step = steps[index]
        if isinstance(step, Pass) and _can_list(step):
            steps[index] = replace(step, **{OPTION: True})
            return Pipeline(tuple(steps))
    raise GraphoptError(
        "no pass in it cuts channels",
        where=f"pipeline '{pipeline}'",
        fix="end it with prune-channels",
    )


def _can_list(step: Pass) -> bool:
    return any(field.name == OPTION for field in fields(step))
