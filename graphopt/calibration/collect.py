"""Watching tensors over calibration samples, in one pass and in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import onnx_ir as ir

from graphopt.calibration.histogram import Histogram
from graphopt.data.feeds import Feed, Samples
from graphopt.errors import GraphoptError
from graphopt.ir import forget_shapes, infer_shapes, static_shape
from graphopt.progress import Progress
from graphopt.runtime.tap import tap

BATCH = 32
BUDGET_BYTES = 1 << 30
FLOAT_BYTES = 4


def collect(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    progress: Progress | None = None,
    *,
    limit: int | None = None,
    budget: int = BUDGET_BYTES,
) -> dict[str, Histogram]:
    """The histogram of each of the tensors `names` of the main graph, over `samples`.

    Samples run in batches that are as large as `budget` allows, up to `BATCH`. Only if the tensors
    of a single sample exceed it are they split into groups, at one pass over the data each.

    Args:
        model: it is not changed.
        names: float tensors of the main graph.
        limit: the number of samples to use, at most.
        budget: the bytes that the watched tensors of a batch may take, at most, where their
            shapes can be inferred. A single tensor may exceed it.

    Raises:
        GraphoptError: if a tensor takes a value that is NaN or infinite, or there are no samples.
    """
    names = list(dict.fromkeys(names))
    first = next(iter(samples), None)
    if first is None:
        raise GraphoptError("holds no samples", where=samples.description)
    sizes = _bytes_of(model, names, first)
    total = sum(sizes.values())
    batch = max(1, min(BATCH, budget // max(total, 1)))
    found = {name: Histogram() for name in names}
    for group in [names] if total <= budget else list(_groups(sizes, budget)):
        for values in tap(
            model,
            group,
            samples,
            batch=batch,
            limit=limit,
            progress=progress,
            description="calibrating",
        ):
            for name, array in values.items():
                try:
                    found[name] = found[name].merge(Histogram.of(array))
                except ValueError as error:
                    raise GraphoptError(
                        f"takes {error} on the calibration data",
                        where=f"tensor '{name}'",
                        fix="check the data and the model, or exclude the nodes that read it",
                    ) from None
    return found


def _bytes_of(model: ir.Model, names: list[str], feed: Feed) -> dict[str, int]:
    """The bytes of each tensor when the model runs on `feed`; unknown ones count as the largest."""
    copy = model.clone()
    forget_shapes(copy.graph)
    for value in copy.graph.inputs:
        if value.name in feed:
            value.shape = ir.Shape(feed[value.name].shape)
    for value in copy.graph.outputs:
        value.shape = None
    with suppress(GraphoptError):  # a graph written for another batch: its shapes stay unknown
        infer_shapes(copy)
    values = ir.convenience.create_value_mapping(copy.graph)
    known = {name: _bytes(values[name]) for name in names if name in values}
    largest = max((size for size in known.values() if size is not None), default=1)
    return {name: known.get(name) or largest for name in names}


def _bytes(value: ir.Value) -> int | None:
    shape = static_shape(value)
    if shape is None:
        return None
    return math.prod(shape) * FLOAT_BYTES


def _groups(sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """Splits tensors, in order, into groups of at most `budget` bytes; of one where that fails."""
    group: list[str] = []
    used = 0
    for name, size in sizes.items():
        if group and used + size > budget:
            yield group
            group, used = [], 0
        group.append(name)
        used += size
    if group:
        yield group
