"""Least-squares compensation: each layer gives again what it gave before the cut.

Layer by layer, in topological order, the weights that are left are refitted so that on what the
pruned model now feeds the layer it gives what the original gave, at the channels that stay (He,
Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1, with
a ridge towards the present weights). No labels and no gradients are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed, InputSpec, Samples, batches, input_specs
from graphopt.ir import constant_tensor, is_standard, subgraphs
from graphopt.progress import Progress
from graphopt.reconstruction import Geometry, Moments, Stream, conv_rows, matrix_rows
from graphopt.runtime.tap import require_finite
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.labelling import Labelling, Layer, Mix
from graphopt_passes.prune_channels.scores import (
    batch_within,
    is_depthwise,
    out_channel_axis,
)
from graphopt_passes.prune_channels.weights import LayerWeights

Array: TypeAlias = "NDArray[Any]"

MAX_ROWS = 60_000
"""Rows (positions of all samples) that one layer is fitted on, at most."""
ROWS_PER_INPUT, MIN_ROWS = 50, 8192
"""More rows than so many for each input of a layer, and than so many in all, change nothing."""
MAX_INPUTS = 8192
"""A layer with more inputs per group only gets its bias refitted: its Gram matrix is too large."""
HELD_BYTES = 512 << 20
"""What each of the two models may hold in memory between layers."""
BATCH_BYTES = 512 << 20
HELD_OUT = 4
"""One sample in so many says whether a refit is any good."""
ROUNDING = 4
"""A relative error of so many roundings of the layer's type leaves nothing to correct."""


@dataclass
class Refit:
    """What compensation did.

    Attributes:
        layers: name, and the relative error on held-out rows before and after.
        declined: name and reason.
    """

    layers: list[tuple[str, float, float]] = field(default_factory=list)
    declined: list[tuple[str, str]] = field(default_factory=list)


def compensate(
    original: ir.Model,
    pruned: ir.Model,
    found: Labelling,
    cut: Cut,
    samples: Samples,
    limit: int,
    progress: Progress,
) -> Refit:
    """Refits the layers of `pruned`, in place, that read something else than in `original`.

    Raises:
        GraphoptError: if what a layer reads or gives is NaN or infinite somewhere.
    """
    specs = input_specs(original)
    names = [n for n in found.labels if found.facts.types[n].is_floating_point()]
    batch = batch_within(found, names, BATCH_BYTES)
    batch = next((s.static_batch for s in specs if s.static_batch is not None), batch)
    runs = _runs(samples, specs, batch, limit)
    firsts = [found.facts.symbols.get(spec.name, ())[:1] for spec in specs]
    free = {dim for first in firsts for dim in first if isinstance(dim, str)}

    def feeds() -> Iterator[Feed]:
        return (feed for feed, _ in batches(samples, specs, batch, limit))

    streams = [Stream(model, feeds, budget=HELD_BYTES) for model in (original, pruned)]
    result = Refit()
    old_nodes = list(original.graph)
    new_nodes = {node.outputs[0].name: node for node in pruned.graph}
    layers = _affected(original, found, cut)
    for layer in progress.track(layers, "refitting layers", len(layers)):
        before = old_nodes[layer.node]
        if isinstance(layer, Mix):
            name = before.name or str(before.outputs[0].name)
            side = "is on the left" if layer.input else "has more than two axes"
            result.declined.append((name, f"its weight {side}"))
            continue
        after = new_nodes[before.outputs[0].name]
        weights = LayerWeights(pruned, after, layer)
        reason = weights.declines()
        if reason is not None:
            result.declined.append((layer.name, reason))
            continue
        rows = _Rows(layer, (before, after), found, cut, runs, free)
        pairs = zip(
            streams[1].values(after, str(_input(after).name), after=False),
            streams[0].values(before, str(before.outputs[0].name), after=True),
            strict=True,
        )
        _refit(layer, weights, rows, pairs, result)
    return result


@dataclass(frozen=True)
class _Run:
    """One run of the models: the number of its first sample, and how many it holds."""

    first: int
    real: int
    size: int
    """Those that fill it up included: copies of the last one."""


def _runs(
    samples: Samples, specs: tuple[InputSpec, ...], batch: int, limit: int
) -> tuple[_Run, ...]:
    fixed = next((s.static_batch for s in specs if s.static_batch is not None), None)
    runs, first = [], 0
    for _, real in batches(samples, specs, batch, limit):
        # A single sample fills the whole run, however long its first axis is.
        runs.append(_Run(first, real, fixed if fixed is not None and real > 1 else real))
        first += real
    return tuple(runs)


def _affected(model: ir.Model, found: Labelling, cut: Cut) -> list[Layer | Mix]:
    """What multiplies by a constant and changes through the cut, in the order of the graph."""
    layers = {layer.node: layer for layer in found.layers}
    mixes = {mix.node: mix for mix in found.mixes}
    changed: set[str] = set()
    affected: list[Layer | Mix] = []
    for number, node in enumerate(model.graph):
        reads = {str(v.name) for v in node.inputs if v is not None}
        for graph in subgraphs(node):
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                reads |= {str(v.name) for v in inner.inputs if v is not None}
        layer, mix = layers.get(number), mixes.get(number)
        hit = bool(reads & changed)
        if layer is not None and not is_depthwise(layer):
            hit = hit or cut.touches(layer.in_labels)
        if mix is not None:
            labels = found.labels.get(str(_input(node, mix.input).name), [])
            hit = hit or any(cut.touches(labels[axis]) for axis in mix.axes if labels)
        if hit:
            changed |= {str(value.name) for value in node.outputs}
            if layer is not None:
                affected.append(layer)
            elif mix is not None and _is_weighted(node):
                affected.append(mix)
    return affected


def _is_weighted(node: ir.Node) -> bool:
    """Whether `node` is a product with a constant."""
    constants = [v is not None and constant_tensor(v) is not None for v in node.inputs[:2]]
    return is_standard(node, "MatMul", "Gemm") and any(constants)


class _Rows:
    """Takes rows out of batches of a layer's input (pruned) and output (original)."""

    def __init__(
        self,
        layer: Layer,
        nodes: tuple[ir.Node, ir.Node],
        found: Labelling,
        cut: Cut,
        runs: Sequence[_Run],
        free: set[str],
    ) -> None:
        before, after = nodes
        name = str(before.outputs[0].name)
        output: list[Labels] = found.labels[name]
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
        self._names = str(_input(after).name), name
        inputs = len(layer.in_labels) // layer.groups
        if layer.kind == "Conv":
            inputs *= math.prod(len(labels) for labels in layer.slot.labels[2:])
        rows = min(MAX_ROWS, max(MIN_ROWS, ROWS_PER_INPUT * inputs))
        self._quota = max(1, rows // max(len(runs), 1))

    def take(self, number: int, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """X, Y and which rows are of held-out samples, for run `number`.

        Rows are taken at random, but always the same.
        """
        for name, array in zip(self._names, (x, y), strict=True):
            require_finite(name, array)
        for axis, keep in self._keeps:
            y = np.compress(keep, y, axis)
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


def _refit(
    layer: Layer,
    weights: LayerWeights,
    rows: _Rows,
    pairs: Iterator[tuple[Array, Array]],
    result: Refit,
) -> None:
    old, old_bias = weights.matrix(), weights.bias()
    assert old_bias is not None
    full = old.shape[1] <= MAX_INPUTS
    fit, held_out = (Moments(*old.shape, full=full) for _ in range(2))
    residual = 0.0
    for number, (x, y) in enumerate(pairs):
        x, y, last = rows.take(number, x, y)
        fit.add(x[:, ~last], y[:, ~last])
        held_out.add(x[:, last], y[:, last])
        residual += float(np.square(y[:, last] - x[:, last] @ old - old_bias[:, None]).sum())
    if full and not (held_out.rows and fit.rows):
        result.declined.append((layer.name, "there are too few samples to check a refit"))
        return
    if not full:
        fit.merge(held_out)
        weights.write(old, fit.bias(old))
        result.declined.append((layer.name, f"{old.shape[1]} inputs: only its bias is refitted"))
        return
    centred = weights.centred
    new = fit.solve(old, centred=centred)
    new_bias = fit.bias(new) if centred else np.zeros_like(old_bias)
    error = held_out.error(new, new_bias)
    scale = max(float(held_out.yy.sum()), 1e-30)
    if math.sqrt(residual / scale) <= ROUNDING * np.finfo(weights.array.dtype).eps:
        return
    if not error < residual:
        result.declined.append((layer.name, "a refit does not lower the error"))
        return
    fit.merge(held_out)
    new = fit.solve(old, centred=centred)
    weights.write(new, fit.bias(new) if centred else np.zeros_like(old_bias))
    result.layers.append(
        (layer.name, math.sqrt(residual / scale), math.sqrt(max(error, 0) / scale))
    )


def _input(node: ir.Node, index: int = 0) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
