"""Watching intermediate tensors while a model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples, batch_count, batches, input_specs
from graphopt.errors import GraphoptError
from graphopt.ir import label, tapped
from graphopt.progress import Progress, Quiet
from graphopt.runtime.session import Session

__all__ = ["NotFiniteError", "observed_shapes", "require_finite", "run_all", "tap", "tapped"]


class NotFiniteError(GraphoptError):
    """A tensor takes NaN or an infinite value on the samples."""


def tap(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    batch: int = 32,
    limit: int | None = None,
    progress: Progress | None = None,
    description: str = "running",
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Runs `model` over `samples` and yields, for each batch, the values `names` by name.

    ONNX Runtime's own optimizations are off. With a model of fixed batch size the last batch may
    hold repeated samples at its end.

    Args:
        batch: samples per run, where the model's batch size is free.
        limit: the number of samples to use, at most.
    """
    specs = input_specs(model)
    session = Session(tapped(model, names))
    used = set(session.inputs)
    total = batch_count(samples, specs, batch) if limit is None else None
    feeds = batches(samples, specs, batch, limit)
    for feed, _ in (progress or Quiet()).track(feeds, description, total):
        yield session.run({name: array for name, array in feed.items() if name in used})


def require_finite(name: str, array: np.ndarray[Any, Any]) -> None:
    """Raises NotFiniteError if the values of tensor `name` are not all finite numbers."""
    if not np.isfinite(array).all():
        raise NotFiniteError(
            "takes NaN or an infinite value on the calibration data",
            where=f"tensor '{name}'",
            fix="check the data and the model",
        )


def observed_shapes(
    model: ir.Model, nodes: Iterable[str], feed: Feed
) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs and outputs of those nodes of the main graph that are called (see
    `label`) as in `nodes`, running on `feed`."""
    wanted = set(nodes)
    names = {
        str(value.name)
        for node in model.graph
        if label(node) in wanted
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.name and not value.is_initializer()
    }
    if not names:
        return {}
    session = Session(tapped(model, sorted(names)))
    values = session.run({name: a for name, a in feed.items() if name in session.inputs})
    return {name: v.shape for name, v in values.items() if isinstance(v, np.ndarray)}


def run_all(model: ir.Model, feeds: Iterable[Feed]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The outputs of `model` for each of `feeds`."""
    session = Session(model)
    return [session.run(feed) for feed in feeds]
