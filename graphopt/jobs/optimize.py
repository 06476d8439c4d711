"""The job of `graphopt optimize`: a model through a pipeline, with proof."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from graphopt.data.evaluation import EvaluationSource, LabelledData, as_evaluation
from graphopt.data.feeds import Feed, InputSpec, batches, input_specs
from graphopt.data.random import RandomOptions, RandomSamples
from graphopt.data.samples import SampleSource, as_samples
from graphopt.errors import GraphoptError
from graphopt.garbage import collecting_only_new
from graphopt.ir import Cost, ModelSource, is_standard, load, measure, model_files, sha256
from graphopt.pipeline.base import Need, PassContext
from graphopt.pipeline.instruments import Dump, Timing
from graphopt.pipeline.presets import DEFAULT
from graphopt.pipeline.record import read_record, versions, write_record
from graphopt.pipeline.runner import Instrument, RunResult, check_needs, run
from graphopt.pipeline.text import Pipeline, as_pipeline, check_order
from graphopt.pipeline.verify import Mode, Verify
from graphopt.progress import Progress, Quiet
from graphopt.report.model import (
    CheckRow,
    ModelFigures,
    Report,
    Score,
    StepRow,
    Verification,
)
from graphopt.runtime.latency import latencies
from graphopt.runtime.session import Session
from graphopt.runtime.tap import observed_shapes
from graphopt.targets import Target, get_target

VERIFY_SAMPLES = 8


@dataclass(frozen=True)
class Optimized:
    """The result of `optimize`."""

    model: ir.Model
    report: Report

    @property
    def accepted(self) -> bool:
        """Whether the drop of the evaluation is within `max_drop`."""
        return self.report.evaluation is None or self.report.evaluation.met

    @property
    def met(self) -> bool:
        """Whether that is so, and every pass has reached what it was told to."""
        return self.accepted and not self.report.unmet


@collecting_only_new()
def optimize(
    source: ModelSource,
    passes: str | Pipeline = DEFAULT,
    *,
    calibration: SampleSource | None = None,
    evaluation: EvaluationSource | None = None,
    max_drop: float | None = None,
    target: str | Target = "generic",
    verify: Mode = "final",
    tolerance: float | None = None,
    latency: bool = False,
    any_order: bool = False,
    dump: str | Path | None = None,
    jobs: int = 1,
    backend: str | None = None,
    ranges: str | Path | None = None,
    progress: Progress | None = None,
) -> Optimized:
    """Runs a pipeline over a model and proves what it did.

    Args:
        source: see `graphopt.load`; it is not changed.
        passes: a pipeline, as text or parsed.
        calibration: representative samples: text, a path, a dict of arrays by input name or a
            function that yields samples; see `graphopt.data.samples.as_samples`.
        evaluation: a score before and after: text, a path or a function that gets `predict` and
            returns a number; see `graphopt.data.evaluation.as_evaluation`.
        max_drop: by how much the score may fall, in its unit; see `Optimized.accepted`.
        target: what the model is to run on; see `graphopt.targets`.
        verify: `each` compares outputs after every pass, `final` at the end, `off` not at all.
        tolerance: for exact passes, relative to an output's peak, in place of the default by dtype.
        latency: measure the time of a run in ONNX Runtime, before and after.
        any_order: allow passes of an earlier stage after those of a later one.
        dump: a folder for the model after each pass that changed it.
        jobs: in how many processes to calibrate; the ranges are the same to the bit.
        backend: where else to calibrate: `dask=ADDRESS` for the workers of a Dask cluster.
        ranges: a JSON file of the ranges of the tensors that are quantized: used if it is there,
            which leaves nothing to calibrate, and written otherwise.
        progress: shows progress on long work.

    Raises:
        GraphoptError: for bad input; ToleranceError if an exact pass changed the numbers.
    """
    pipeline = as_pipeline(passes)
    if not any_order:
        check_order(pipeline)
    _check_numbers(tolerance=tolerance, max_drop=max_drop)
    if jobs < 1:
        raise GraphoptError(f"jobs must be at least 1, not {jobs}")
    _check_that_all_is_used(
        pipeline,
        max_drop=max_drop is not None and evaluation is None,
        tolerance=tolerance is not None and verify == "off",
        backend=backend is not None and calibration is None,
        ranges=ranges,
    )
    model = load(source)
    context = replace(
        _context(model, calibration, evaluation, target, progress),
        jobs=jobs,
        backend=backend,
        ranges=None if ranges is None else Path(ranges),
    )
    check_needs(pipeline, context)
    wanted = latency or verify != "off"
    probes = _probes(model, context) if wanted else _Probes([], "nothing", "nothing is to be run")
    timing, verifier = Timing(), Verify(probes.feeds, verify, tolerance, probes.missing)
    instruments: list[Instrument] = [timing]
    if verify != "off":
        instruments.append(verifier)
    if dump is not None:
        instruments.append(Dump(Path(dump)))
    files = model_files(Path(source), model) if isinstance(source, (str, os.PathLike)) else []
    digest = sha256(source, model, files)
    before = _figures(model, probes, context)  # first, so that a bad evaluation is told at once
    own = not isinstance(source, ir.Model) and not latency  # nobody else needs the original
    reload = (lambda: load(source)) if own else None
    result = run(pipeline, model, context, instruments, any_order=any_order, reload=reload)
    if result.modified or not read_record(model):
        write_record(
            result.model,
            pipeline,
            source_sha256=digest,
            target=context.target.name,
            calibration=str(calibration) if isinstance(calibration, (str, os.PathLike)) else None,
        )
    after = _figures(result.model, probes, context)
    warnings = _warnings(model, context, verify, verifier, probes)
    if latency and probes.feeds:
        try:
            first, second = latencies((model, result.model), probes.feeds[0])
            before, after = replace(before, latency_ms=first), replace(after, latency_ms=second)
            if second > first and context.target.family == "generic":
                warnings += _slow_integers(model, result.model)
        except GraphoptError as error:
            warnings += (f"latency was not measured: {error}",)
    if files:
        before = replace(before, file_bytes=sum(file.stat().st_size for file in files))
    report = Report(
        source=str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__,
        source_sha256=digest,
        pipeline=str(pipeline),
        target=context.target.name,
        versions=versions(),
        calibration=context.calibration.description if context.calibration else None,
        before=before,
        after=after,
        steps=_step_rows(result, timing.seconds),
        verification=_verification(verify, probes.source, verifier),
        evaluation=_score(context, before, after, max_drop),
        latency_batch=None if before.latency_ms is None else _rows(probes.feeds[0]),
        warnings=warnings,
    )
    return Optimized(result.model, report)


def _check_numbers(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 0 <= number < math.inf:
            raise GraphoptError(f"{name} must be a number of at least 0, not {number}")


def _check_that_all_is_used(
    pipeline: Pipeline,
    *,
    max_drop: bool,
    tolerance: bool,
    backend: bool,
    ranges: str | Path | None,
) -> None:
    """Raises GraphoptError for what would do nothing; those that are true lack what they need."""
    if max_drop:
        raise GraphoptError("a maximal drop needs an evaluation", fix="give one (--eval SRC)")
    if tolerance:
        raise GraphoptError(
            "a tolerance does nothing where nothing is verified",
            fix="leave it or '--verify off' out",
        )
    if backend:
        raise GraphoptError(
            "a backend calibrates, and there are no samples", fix="give some (--calib SRC)"
        )
    if ranges is not None and not any(Need.RANGES in step.needs for step in pipeline.passes()):
        raise GraphoptError(
            "no pass of the pipeline takes or makes ranges",
            where=f"--ranges {ranges}",
            fix="add quantize, or leave the file out",
        )


@dataclass(frozen=True)
class _Probes:
    """Inputs to run the model on, to verify and to time it, and where they come from."""

    feeds: list[Feed]
    source: str
    missing: str | None = None
    """Why there are none."""
    guessed: str = ""
    """The shapes of which sizes were made up, as no sample tells them."""


def _context(
    model: ir.Model,
    calibration: SampleSource | None,
    evaluation: EvaluationSource | None,
    target: str | Target,
    progress: Progress | None,
) -> PassContext:
    samples = None if calibration is None else as_samples(calibration, input_specs(model))
    scored = None if evaluation is None else as_evaluation(evaluation, input_specs(model))
    return PassContext(get_target(target), samples, scored, progress or Quiet())


def _probes(model: ir.Model, context: PassContext) -> _Probes:
    """The user's own samples if there are any, otherwise noise."""
    try:
        specs = input_specs(model)
    except GraphoptError as error:
        return _Probes([], "nothing", f"there is nothing to feed: {error}")
    samples = context.calibration
    if samples is None and isinstance(context.evaluation, LabelledData):
        samples = context.evaluation.samples
    if samples is None:
        samples = RandomSamples(RandomOptions(n=VERIFY_SAMPLES), specs)
    made = list(batches(samples, specs, 1, VERIFY_SAMPLES))
    number = sum(real for _, real in made)
    return _Probes(
        [feed for feed, _ in made],
        f"the first {number} of {samples.description}",
        guessed=_made_up(specs, made[0][0]) if samples.is_random else "",
    )


def _made_up(specs: Sequence[InputSpec], feed: Feed) -> str:
    """The inputs of `feed` of which a size other than the batch is free."""
    return ", ".join(
        f"{spec.name} {list(feed[spec.name].shape)}"
        for spec in specs
        if None in spec.shape[spec.batched :]
    )


def _figures(model: ir.Model, probes: _Probes, context: PassContext) -> ModelFigures:
    cost = _cost(model, probes, context)
    evaluation = context.evaluation
    return ModelFigures(
        nodes=cost.nodes,
        parameters=cost.parameters,
        macs=cost.macs,
        macs_unknown=cost.unknown,
        weight_bytes=cost.weight_bytes,
        score=evaluation.score(Session(model).run, context.progress) if evaluation else None,
    )


def _cost(model: ir.Model, probes: _Probes, context: PassContext) -> Cost:
    cost = measure(model, facts=context.analyses.facts(model))
    if not cost.unknown or not probes.feeds:
        return cost
    try:
        return measure(model, observed_shapes(model, cost.unknown, probes.feeds[0]))
    except GraphoptError:
        return cost  # it does not run: the report names the nodes that are not counted


def _score(
    context: PassContext, before: ModelFigures, after: ModelFigures, max_drop: float | None
) -> Score | None:
    evaluation = context.evaluation
    if evaluation is None or before.score is None or after.score is None:
        return None
    return Score(evaluation.description, evaluation.metric, before.score, after.score, max_drop)


def _step_rows(result: RunResult, seconds: Sequence[float]) -> tuple[StepRow, ...]:
    return tuple(
        StepRow(
            step=str(record.step),
            effect=record.step.effect.value,
            modified=record.modified,
            seconds=elapsed,
            nodes_before=record.nodes_before,
            nodes_after=record.nodes_after,
            rewrites=record.rewrites,
            notes=record.notes,
            declined=record.declined,
            details=record.details,
            unmet=record.unmet,
        )
        for record, elapsed in zip(result.steps, seconds, strict=True)
    )


def _verification(mode: Mode, inputs: str, verifier: Verify) -> Verification:
    if mode == "off":
        return Verification(mode, inputs, skipped="verification is off")
    checks = tuple(CheckRow(c.passes, c.effect.value, c.differences) for c in verifier.checks)
    return Verification(mode, inputs, checks, verifier.total, verifier.skipped)


def _warnings(
    model: ir.Model, context: PassContext, mode: Mode, verifier: Verify, probes: _Probes
) -> tuple[str, ...]:
    found = []
    if context.calibration is not None and context.calibration.is_random:
        found.append("calibrated on random noise: ranges and scores mean little; give real samples")
    if mode != "off" and verifier.skipped is not None:
        found.append(f"the result was NOT verified: {verifier.skipped}")
    if probes.guessed:
        found.append(
            f"no sample says how large the inputs are, so {probes.guessed} was taken: what is "
            "measured is of that size; give samples (--calib SRC)"
        )
    if verifier.uniform:
        found.append(
            f"all that is in output {' and '.join(repr(name) for name in verifier.uniform)} is the "
            f"same number on {probes.source}, but for rounding: comparing it proves little; give "
            "samples that the model answers differently, prepared as for training (--calib SRC)"
        )
    defaults = sum(value.is_initializer() for value in model.graph.inputs)
    if defaults:
        found.append(
            f"{defaults} weights are inputs as well, so a caller may override them (usual before "
            "IR version 4): they are no constants, and nothing is folded or fused into them"
        )
    return tuple(found)


def _slow_integers(model: ir.Model, result: ir.Model) -> tuple[str, ...]:
    """What to do where Q/DQ that `result` has and `model` has not makes it slower here."""
    new = (
        any(is_standard(node, "QuantizeLinear") for node in each.graph) for each in (result, model)
    )
    if tuple(new) != (True, False):
        return ()
    return (
        "slower in ONNX Runtime on this CPU: without a target, quantized layers are as TensorRT "
        "wants them; for a CPU say --target onnxruntime-cpu",
    )


def _rows(feed: Feed) -> int:
    return max((len(array) for array in feed.values() if array.ndim), default=1)
