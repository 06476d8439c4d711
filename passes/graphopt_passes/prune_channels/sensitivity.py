"""How much the outputs suffer when one group alone loses channels.

The layers that read the group make up for what is gone as well as they can by themselves: what a
cut channel held is told, by least squares, from those that stay, and their weights take it over.
That is close to what compensation does to the whole model, at a fraction of its price.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples, batches, input_specs
from graphopt.data.parts import split
from graphopt.ir import Names
from graphopt.progress import Progress
from graphopt.reconstruction import Stream
from graphopt.runtime.tap import require_finite, run_all, tap
from graphopt_passes.prune_channels.allocation import Ladder, cut_of
from graphopt_passes.prune_channels.apply import cut_channels
from graphopt_passes.prune_channels.budget import count_cost
from graphopt_passes.prune_channels.divergence import divergence
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.labelling import Labelling, Layer
from graphopt_passes.prune_channels.weights import LayerWeights

Array: TypeAlias = "NDArray[Any]"

FRACTIONS = (0.25, 0.5, 1.0)
"""The shares of a group that are cut to measure it, or as much as may be."""
JUDGES = 128
"""So many held-out samples are measured on, at most,"""
LEAST_JUDGES, WORK = 8, 10**12
"""and at least, where all runs together would take more multiply-accumulates than that."""
BATCH = 16
HELD_BYTES = 256 << 20
"""What the values at one place of the model may take, over all samples that judge."""
FITTED, ROWS = 384, 64
"""Samples, and positions of each, that channels are told from one another by."""
MOMENT_BYTES = 512 << 20
"""What the covariances of all the layers that are looked at in one run may take."""
MAX_INPUTS = 4096
"""A layer with more inputs has its bias refitted alone."""
RIDGE = 1e-2
"""Relative to the mean variance, as in compensation."""


@dataclass(frozen=True)
class Sensitivity:
    """The `divergence` of the outputs after so many steps down the ladder of a group."""

    damages: dict[int, float]

    @property
    def middle(self) -> float:
        """At half of the channels, or what is next to it."""
        return list(self.damages.values())[len(self.damages) // 2] if self.damages else 0.0


def measure_groups(
    model: ir.Model,
    found: Labelling,
    ladders: Sequence[Ladder],
    samples: Samples,
    limit: int,
    *,
    refit: bool,
    progress: Progress,
) -> list[Sensitivity]:
    """Measures the group of each of `ladders` in `model`, on samples that nothing is fitted on.

    The outputs are compared with those of `model`, also where it has been cut before: what a
    further cut adds to the distance from the original depends on chance more than on the group.

    Args:
        limit: the number of samples to use, at most.
        refit: whether the readers of a group make up for it.

    Raises:
        GraphoptError: if a value is NaN or infinite, or ONNX Runtime cannot run the model.
    """
    fitted, judging = split(samples, limit) or (samples, samples)
    relations = _relations(model, found, fitted, progress) if refit else {}
    number = _judges(count_cost(model, found).macs, ladders)
    feeds = [feed for feed, _ in batches(judging, input_specs(model), BATCH, number)]
    names = [str(value.name) for value in model.graph.outputs]
    expected = run_all(model, feeds)
    stream = Stream(model, lambda: iter(feeds), budget=HELD_BYTES)
    places = _first_nodes(model, found, ladders)
    results: dict[int, Sensitivity] = {}
    order = sorted(range(len(ladders)), key=lambda number: (places[number], number))
    for number in progress.track(order, "measuring groups", len(order)):
        stream.pass_to(model.graph[places[number]], names)
        damages = {}
        for step in _steps(ladders[number]):
            cut = cut_of(found, [ladders[number]], [step])
            candidate = _refitted(model, found, cut, relations)
            outputs = list(stream.continued(candidate, names))
            damages[step] = divergence(expected, outputs)
        results[number] = Sensitivity(damages)
    return [results[number] for number in range(len(ladders))]


def _steps(ladder: Ladder) -> list[int]:
    """The steps that are measured: those next to `FRACTIONS`."""
    kept = np.array(ladder.kept)
    return sorted({int(np.abs(kept - (1 - f) * kept[0]).argmin()) for f in FRACTIONS} - {0})


def _judges(macs: int, ladders: Sequence[Ladder]) -> int:
    """On how many samples to measure a model of so many multiply-accumulates."""
    runs = sum(len(_steps(ladder)) for ladder in ladders)
    return min(JUDGES, max(LEAST_JUDGES, WORK // max(macs * runs, 1)))


def _first_nodes(model: ir.Model, found: Labelling, ladders: Sequence[Ladder]) -> list[int]:
    """For each group the first node that is not the same without its channels."""
    home = np.full(len(found.atoms), -1)
    for number, ladder in enumerate(ladders):
        home[ladder.atoms] = number
    home = home[found.atoms.all_roots()]
    first: dict[int, int] = {}
    for place, node in enumerate(model.graph):
        for value in node.outputs:
            for labels in found.labels.get(str(value.name), ()):
                for number in np.unique(home[labels]).tolist():
                    first.setdefault(number, place)
    return [first.get(number, 0) for number in range(len(ladders))]


@dataclass
class _Relation:
    """Mean and covariance of the inputs of a layer."""

    rows: int = 0
    total: Array = field(default_factory=lambda: np.zeros(0))
    products: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, rows: Array) -> None:
        if not self.rows:
            self.total = np.zeros(rows.shape[1])
            self.products = np.zeros((rows.shape[1], rows.shape[1]))
        self.rows += len(rows)
        self.total += rows.sum(0)
        self.products += rows.T @ rows

    def told(self, keep: Array) -> tuple[Array, Array]:
        """How the channels that go follow from those that stay: a matrix [stay, go], and a mean."""
        mean = self.total / self.rows
        covariance = self.products / self.rows - np.outer(mean, mean)
        within = covariance[np.ix_(keep, keep)]
        # How far the rounding of these sums may be off: of channels that never change, nothing
        # else is left, and the matrix need not even be positive.
        noise = np.finfo(np.float64).eps * float(np.trace(self.products))
        strength = max(RIDGE * float(np.trace(within)) / len(within), noise, 1e-32)
        matrix = np.linalg.solve(
            within + strength * np.eye(len(within)), covariance[np.ix_(keep, ~keep)]
        )
        return matrix, mean[~keep] - mean[keep] @ matrix


def _relations(
    model: ir.Model, found: Labelling, samples: Samples, progress: Progress
) -> dict[int, _Relation]:
    """For each layer that reads free channels, by its node, the relation between its inputs."""
    nodes = list(model.graph)
    layers = [
        layer
        for layer in found.layers
        if layer.groups == 1
        and len(layer.in_labels) <= MAX_INPUTS
        and len(found.atoms.free(layer.in_labels))
    ]
    relations = {layer.node: _Relation() for layer in layers}
    for part in _parts(layers):
        names = {layer.node: str(_data(nodes[layer.node]).name) for layer in part}
        taps = tap(
            model, list(dict.fromkeys(names.values())), samples, batch=BATCH, limit=FITTED,
            progress=progress, description="relating channels",
        )  # fmt: skip
        for number, values in enumerate(taps):
            for layer in part:
                array = values[names[layer.node]]
                require_finite(names[layer.node], array)
                relations[layer.node].add(_some_rows(array, layer.x_axis, (layer.node, number)))
    return relations


def _parts(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """`layers`, so many at a time as memory allows."""
    part: list[Layer] = []
    size = 0
    for layer in layers:
        size += 8 * len(layer.in_labels) ** 2
        if part and size > MOMENT_BYTES:
            yield part
            part, size = [], 8 * len(layer.in_labels) ** 2
        part.append(layer)
    if part:
        yield part


def _some_rows(array: Array, axis: int, seed: tuple[int, int]) -> Array:
    rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    quota = ROWS * BATCH
    if len(rows) > quota:
        taken = np.random.default_rng(seed).choice(len(rows), quota, replace=False)
        rows = rows[np.sort(taken)]
    return rows.astype(np.float64)


def _refitted(
    model: ir.Model, found: Labelling, cut: Cut, relations: dict[int, _Relation]
) -> ir.Model:
    """`model` after `cut`; the layers that read what is cut make up for it by themselves."""
    pruned = cut_channels(model, found, cut)
    names = Names(pruned)
    old_nodes = list(model.graph)
    new_nodes = {node.outputs[0].name: node for node in pruned.graph}
    for layer in found.layers:
        relation = relations.get(layer.node)
        keep = cut.keep(layer.in_labels)
        if relation is None or keep.all() or not relation.rows:
            continue
        before, after = old_nodes[layer.node], new_nodes[old_nodes[layer.node].outputs[0].name]
        old, new = LayerWeights(before, layer), LayerWeights(after, layer)
        bias = new.bias()
        if new.declines() is not None or bias is None:
            continue
        matrix, mean = relation.told(keep)
        outputs = cut.keep(layer.slot.labels[layer.out_axis])
        whole = old.matrix()[0].reshape(len(keep), -1, len(outputs))
        gone = whole[~keep][:, :, outputs]
        taken_over = np.tensordot(matrix, gone, 1)
        weight = new.matrix() + taken_over.reshape(1, -1, gone.shape[2])
        new.write(names, weight, bias + np.tensordot(mean, gone.sum(1), 1)[None])
    return pruned


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
