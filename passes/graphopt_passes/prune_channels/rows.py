"""What a layer is fitted on: rows of what it reads, and of what it is to give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import InputSpec, Samples, batches
from graphopt.reconstruction import Geometry, conv_rows, enough_rows, matrix_rows
from graphopt.runtime.tap import require_finite
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.labelling import Labelling, Layer
from graphopt_passes.prune_channels.scores import out_channel_axis

Array: TypeAlias = "NDArray[Any]"

HELD_OUT = 4
"""One sample in so many says whether a refit is any good."""


@dataclass(frozen=True)
class Run:
    """One run of the models: the number of its first sample, and how many it holds."""

    first: int
    real: int
    size: int
    """Those that fill it up included: copies of the last one."""


def plan_runs(
    samples: Samples, specs: tuple[InputSpec, ...], batch: int, limit: int
) -> tuple[Run, ...]:
    fixed = next((s.static_batch for s in specs if s.static_batch is not None), None)
    runs, first = [], 0
    for _, real in batches(samples, specs, batch, limit):
        # A single sample fills the whole run, however long its first axis is.
        runs.append(Run(first, real, fixed if fixed is not None and real > 1 else real))
        first += real
    return tuple(runs)


class Rows:
    """Takes rows out of batches of a layer's input (pruned) and output (original)."""

    def __init__(
        self,
        layer: Layer,
        nodes: tuple[ir.Node, ir.Node],
        found: Labelling,
        cut: Cut,
        runs: Sequence[Run],
        free: set[str],
    ) -> None:
        before, after = nodes
        name = str(before.outputs[0].name)
        output = found.labels[name]
        self._layer = layer
        self._before = before
        self._groups = after.attributes.get_int("group", 1) if layer.kind == "Conv" else 1
        self._keeps = [(a, cut.keep(x)) for a, x in enumerate(output) if cut.touches(x)]
        self._runs = runs
        self._symbols = [
            symbol in free
            for axis, symbol in enumerate(found.facts.symbols[name])
            if axis != out_channel_axis(layer)
        ]
        read = after.inputs[0]
        assert read is not None
        self._names = str(read.name), name
        inputs = len(layer.in_labels) // layer.groups
        if layer.kind == "Conv":
            inputs *= math.prod(len(labels) for labels in layer.slot.labels[2:])
        rows = enough_rows(inputs)
        self._quota = max(1, rows // max(len(runs), 1))

    def take(
        self, number: int, x: Array, y: Array, sides: tuple[Array, Array] | None = None
    ) -> tuple[Array, Array, Array]:
        """X, Y and which rows are of held-out samples, for run `number`.

        Rows are taken at random, but always the same.

        Args:
            sides: what is added to the output, in the original and in the pruned model: the layer
                is also to make up for their difference.
        """
        for name, array in zip(self._names, (x, y), strict=True):
            require_finite(name, array)
        y = self._kept(y)
        if sides is not None:
            y = y.astype(np.float64) + self._kept(sides[0]) - sides[1]
        total = y.size // y.shape[out_channel_axis(self._layer)]
        rows = np.arange(total)
        if total > self._quota:
            generator = np.random.default_rng((self._layer.node, number))
            rows = np.sort(generator.choice(total, self._quota, replace=False))
        axis = out_channel_axis(self._layer)
        rows, sample = self._samples(number, rows, y.shape[:axis] + y.shape[axis + 1 :])
        held_out = sample % HELD_OUT == HELD_OUT - 1
        if self._layer.kind != "Conv":
            return *matrix_rows(x, y, rows), held_out
        weight = self._layer.slot.labels
        kernel = [len(labels) for labels in weight[2:]]
        geometry = Geometry.of(self._before, kernel, x.shape[2:], y.shape[2:])
        return *conv_rows(x, y, geometry, self._groups, rows), held_out

    def _kept(self, array: Array) -> Array:
        for axis, keep in self._keeps:
            array = np.compress(keep, array, axis)
        return array

    def _samples(self, number: int, rows: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Those of `rows`, indices into `shape` flattened, that are of a sample, and of which."""
        run = self._runs[number]
        if run.size == 1:
            return rows, np.full(len(rows), run.first)
        axis = self._batch_axis(shape, run.size)
        if axis is None:
            # All rows of this run are on one side.
            return rows, np.full(len(rows), number)
        sample = np.unravel_index(rows, shape)[axis] * run.size // shape[axis]
        real = sample < run.real
        return rows[real], run.first + sample[real]

    def _batch_axis(self, shape: tuple[int, ...], size: int) -> int | None:
        """The axis of `shape` along which the samples of a run lie, each in one piece."""
        named = [axis for axis, free in enumerate(self._symbols) if free and shape[axis] == size]
        if named:
            return named[0]
        if shape and shape[0] % size == 0:
            return 0
        return next((axis for axis, length in enumerate(shape) if length == size), None)
