"""How good a model is, as one number: labelled data and a metric, or the user's own function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from graphopt.data.arrays import ArraySamples, open_npz, read_npz
from graphopt.data.feeds import Feed, InputSpec, as_feed, batch_count, batches
from graphopt.data.functions import blaming, function_name, import_function, is_function
from graphopt.data.metrics import METRICS
from graphopt.data.samples import is_folder, refuse_options, split_options
from graphopt.errors import GraphoptError
from graphopt.options import build
from graphopt.progress import Progress

LABELS = "labels"
BATCH = 64

Predict: TypeAlias = "Callable[[Feed], dict[str, np.ndarray[Any, Any]]]"
"""Runs a model: from a feed to its outputs by name, in the model's order."""


class Evaluation(Protocol):
    """Gives a model a score; higher is better."""

    @property
    def description(self) -> str: ...

    @property
    def metric(self) -> str: ...

    def score(self, predict: Predict, progress: Progress) -> float:
        """The score of the model that `predict` runs, in the metric's own unit."""
        ...


EvaluationSource: TypeAlias = "str | os.PathLike[str] | Callable[[Predict], float] | Evaluation"
"""What Python code may give as an evaluation: see `as_evaluation`."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How labelled data is scored: the metric, and the output it reads (default: the first)."""

    metric: str = "top1"
    output: str | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric '{self.metric}'; known: {', '.join(sorted(METRICS))}")


def open_evaluation(text: str, specs: tuple[InputSpec, ...]) -> Evaluation:
    """The evaluation that `text` names, checked against the inputs `specs` of a model.

        eval.npz{metric=top1}     the inputs by name and an array `labels`, one per sample
        module:function           function(predict) -> float, higher is better

    Raises:
        GraphoptError: if there is no such source, or names, shapes or dtypes do not fit.
    """
    place, options = split_options(text)
    path = Path(place)
    folder = is_folder(path)
    if path.suffix != ".npz" and not path.exists() and is_function(place):
        refuse_options(options, f"'{place}'")
        return FunctionEvaluation(place, import_function(place), specs)
    if folder:
        raise GraphoptError(
            "is a folder", where=place, fix="an evaluation is an .npz file or module:function"
        )
    labels = read_npz(path).get(LABELS)
    if labels is None:
        raise GraphoptError(
            f"holds no array '{LABELS}'", where=place, fix="add one label per sample"
        )
    samples = open_npz(path, specs, ignore=(LABELS,))
    if labels.shape[:1] != (samples.count(),):
        raise GraphoptError(
            f"has {samples.count()} samples, but '{LABELS}' has shape {list(labels.shape)}",
            where=place,
        )
    return LabelledData(samples, labels, build(EvaluationOptions, *options, f"'{place}'"))


def as_evaluation(source: EvaluationSource, specs: tuple[InputSpec, ...]) -> Evaluation:
    """The evaluation that `source` is or names, checked against the inputs `specs` of a model.

    It is text or a path as `open_evaluation` takes it, a `function(predict) -> float`, or an
    Evaluation, which is taken as it is.

    Raises:
        GraphoptError: if it is none of these, or names, shapes or dtypes do not fit.
    """
    if isinstance(source, (str, os.PathLike)):
        return open_evaluation(os.fspath(source), specs)
    if callable(source):
        return FunctionEvaluation(function_name(source), source, specs)
    if hasattr(source, "score"):
        return source
    raise GraphoptError(
        f"an evaluation cannot be of type {type(source).__name__}",
        fix="give text or a path, or a function that gets `predict` and returns a number",
    )


@dataclass(frozen=True)
class LabelledData:
    """Samples with a label each."""

    samples: ArraySamples
    labels: np.ndarray[Any, Any]
    options: EvaluationOptions

    @property
    def description(self) -> str:
        return self.samples.description

    @property
    def metric(self) -> str:
        return self.options.metric

    def score(self, predict: Predict, progress: Progress) -> float:
        specs = self.samples.specs
        total = batch_count(self.samples, specs, BATCH)
        collected = []
        for feed, real in progress.track(batches(self.samples, specs, BATCH), "evaluating", total):
            collected.append(self._output(predict(feed), _rows(feed))[:real])
        return METRICS[self.metric](np.concatenate(collected), self.labels)

    def _output(self, outputs: dict[str, np.ndarray[Any, Any]], rows: int) -> np.ndarray[Any, Any]:
        name = self.options.output or next(iter(outputs))
        if name not in outputs:
            raise GraphoptError(f"the model has no output '{name}'", where=self.description)
        output = outputs[name]
        if not isinstance(output, np.ndarray) or output.shape[:1] != (rows,):
            raise GraphoptError(
                f"output '{name}' has no row for each of the {rows} samples that it was given",
                where=self.description,
                fix="choose another with {output=NAME}, or evaluate with a function",
            )
        return output


def _rows(feed: Feed) -> int:
    return len(next(iter(feed.values())))


class FunctionEvaluation:
    """The user's `function(predict) -> float`."""

    def __init__(
        self, text: str, function: Callable[..., Any], specs: tuple[InputSpec, ...]
    ) -> None:
        self.description = text
        self.metric = text.partition(":")[2]
        self._function = function
        self._specs = specs

    def score(self, predict: Predict, progress: Progress) -> float:
        def checked(data: Mapping[str, Any] | Any) -> dict[str, np.ndarray[Any, Any]]:
            return predict(as_feed(data, self._specs, self.description))

        with blaming(self.description):
            score = self._function(checked)
        if isinstance(score, bool) or not isinstance(score, (int, float, np.number)):
            raise GraphoptError(
                f"returned {type(score).__name__}, not a number", where=self.description
            )
        if not np.isfinite(score):
            raise GraphoptError(f"returned {score}", where=self.description)
        return float(score)
