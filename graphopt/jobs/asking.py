"""Pipelines that are run for what one of their passes finds out."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.base import Pass, PassContext
from graphopt.pipeline.runner import StepRecord, run
from graphopt.pipeline.text import Pipeline


def asking(pipeline: Pipeline, option: str, *, lacking: str, fix: str) -> Pipeline:
    """`pipeline` with `option` set in its last pass that has it.

    Args:
        option: by which a pass finds something out, and the name of the table in its details.
        lacking: what is wrong with a pipeline that has no such pass.
        fix: what to do then.

    Raises:
        GraphoptError: if there is none.
    """
    steps = list(pipeline.steps)
    for index in reversed(range(len(steps))):
        step = steps[index]
        if isinstance(step, Pass) and _has(step, option):
            steps[index] = replace(step, **{option: True})
            return Pipeline(tuple(steps))
    raise GraphoptError(lacking, where=f"pipeline '{pipeline}'", fix=fix)


def answer(
    pipeline: Pipeline, model: ir.Model, context: PassContext, option: str
) -> tuple[StepRecord, Any]:
    """Runs what `asking` gave: the record of the pass that was asked, and its table, or None."""
    result = run(pipeline, model, context)
    record = next(step for step in reversed(result.steps) if _has(step.step, option))
    return record, record.details.get(option)


def _has(step: Pass, option: str) -> bool:
    return any(field.name == option for field in fields(step))
