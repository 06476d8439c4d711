"""Structured optimal brain surgeon: what it costs to do without a channel, after the best refit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.data.feeds import batches, input_specs
from graphopt.reconstruction import Geometry, Moments, conv_rows, matrix_rows
from graphopt.runtime.session import Session
from graphopt.runtime.tap import require_finite, tapped
from graphopt_passes.prune_channels.groups import Group
from graphopt_passes.prune_channels.labelling import Layer
from graphopt_passes.prune_channels.scores.removal import Problem, removal_costs
from graphopt_passes.prune_channels.scores.task import (
    TAP_BYTES,
    Task,
    batch_within,
    out_channel_axis,
)
from graphopt_passes.prune_channels.weights import LayerWeights

Array: TypeAlias = "NDArray[Any]"

MAX_INPUTS = 4608
"""Inputs (channels times kernel positions, of one group of a convolution) of a reader, at most: a
3x3 convolution of 512 channels. Time grows with the cube of them, memory with the square."""
GRAM_BYTES = 512 << 20
"""What Gram matrices may take at a time; one reader's are always held."""
ROWS_PER_INPUT, MIN_ROWS, MAX_ROWS = 20, 4096, 60_000
"""Positions of all samples that a Gram matrix is made of: so many for each input, within limits."""


def obs_scores(task: Task) -> dict[int, float]:
    """For each atom the rise of the error of its readers when it goes, after those before it.

    In each group channels are taken away in the order that hurts least, and after each the other
    weights of all readers are refitted: see `removal_costs`. The error is relative to the
    variance of a reader's output, and summed over the readers. Samples run through the original
    model only. A group has no score if one of its readers cannot be refitted, or has more than
    `MAX_INPUTS` inputs, or if it has none.

    Raises:
        GraphoptError: if what a reader reads is NaN or infinite somewhere.
    """
    readers = _readers(task)
    scores: dict[int, float] = {}
    chunks = list(_chunks(task, readers))
    for chunk in task.progress.track(chunks, "removing channels", len(chunks)):
        layers = list(
            {layer.node: layer for group in chunk for layer in readers[group.name]}.values()
        )
        grams = _grams(task, layers)
        for group in chunk:
            atoms = group.atoms
            problems = [
                problem
                for layer in readers[group.name]
                for problem in _problems(task, layer, grams[layer.node], atoms)
            ]
            costs = removal_costs(problems, len(atoms))
            scores.update(zip(atoms.tolist(), costs.tolist(), strict=True))
    return scores


def _readers(task: Task) -> dict[str, list[Layer]]:
    """The readers of each group that can be scored, by its name; others are declined."""
    roots = [
        (layer, set(task.found.atoms.roots(layer.in_labels).tolist())) for layer in task.readers
    ]
    readers = {}
    for group in task.groups:
        atom = int(group.atoms[0])  # all occur in the same axes
        mine = [layer for layer, read in roots if atom in read]
        reasons = (_why_not(task, layer) for layer in mine)
        reason = next((r for r in reasons if r is not None), None)
        if not mine:
            reason = "no layer with a constant weight reads its channels"
        if reason is None:
            readers[group.name] = mine
        else:
            task.declined[group.name] = reason
    return readers


def _weights(task: Task, layer: Layer) -> LayerWeights:
    return LayerWeights(task.nodes[layer.node], layer)


def _why_not(task: Task, layer: Layer) -> str | None:
    if task.weight(layer) is None:
        return f"the weight of its reader '{layer.name}' is not a floating-point constant"
    reason = _weights(task, layer).declines()
    if reason is not None:
        return f"its reader '{layer.name}' cannot be refitted: {reason}"
    inputs = _inputs(layer)
    if inputs > MAX_INPUTS:
        return f"its reader '{layer.name}' has {inputs} inputs, more than {MAX_INPUTS}"
    return None


def _inputs(layer: Layer) -> int:
    """Per group of a convolution."""
    return len(layer.in_labels) // layer.groups * _taps(layer)


def _taps(layer: Layer) -> int:
    return math.prod(len(labels) for labels in layer.slot.labels[2:]) if layer.kind == "Conv" else 1


def _chunks(task: Task, readers: dict[str, list[Layer]]) -> Iterator[list[Group]]:
    """The groups that can be scored, as many at a time as their Gram matrices fit in memory."""
    chunk: list[Group] = []
    held: dict[int, int] = {}
    for group in task.groups:
        if group.name not in readers:
            continue
        more = {layer.node: 8 * layer.groups * _inputs(layer) ** 2 for layer in readers[group.name]}
        if chunk and sum((held | more).values()) > GRAM_BYTES:
            yield chunk
            chunk, held = [], {}
        chunk.append(group)
        held |= more
    if chunk:
        yield chunk


def _grams(task: Task, layers: Sequence[Layer]) -> dict[int, Array]:
    """X'X / rows of what each layer reads, [groups, inputs, inputs], by node; centred if the layer
    has a bias to make up for the means."""
    nodes = task.nodes
    names = [str(nodes[layer.node].inputs[0].name) for layer in layers]  # type: ignore[union-attr]
    outputs = [str(nodes[layer.node].outputs[0].name) for layer in layers]
    specs = input_specs(task.model)
    used = list(dict.fromkeys([*names, *outputs]))
    batch = batch_within(task.found, used, TAP_BYTES)
    session = Session(tapped(task.model, used))
    moments = {layer.node: Moments(layer.groups, _inputs(layer), 0) for layer in layers}
    runs = -(-task.limit // batch)
    for number, (feed, _) in enumerate(batches(task.data, specs, batch, task.limit)):
        values = session.run({name: a for name, a in feed.items() if name in session.inputs})
        for layer, name, output in zip(layers, names, outputs, strict=True):
            require_finite(name, values[name])
            x = _rows(task, layer, values[name], values[output].shape, (number, runs))
            moments[layer.node].add(x, x[:, :, :0])
    grams = {}
    for layer in layers:
        sums = moments[layer.node]
        gram = sums.xx
        assert gram is not None
        gram /= max(sums.rows, 1)
        if _weights(task, layer).centred:
            mean = sums.x / max(sums.rows, 1)
            gram -= mean[:, :, None] * mean[:, None, :]
        grams[layer.node] = gram
    return grams


def _rows(
    task: Task, layer: Layer, x: Array, shape: tuple[int, ...], run: tuple[int, int]
) -> Array:
    """Rows of what `layer` reads, [groups, rows, inputs]: at random, but always the same ones."""
    number, runs = run
    quota = min(MAX_ROWS, max(MIN_ROWS, ROWS_PER_INPUT * _inputs(layer))) // runs + 1
    axis = out_channel_axis(layer)
    total = math.prod(shape[:axis] + shape[axis + 1 :])
    rows = np.arange(total)
    if total > quota:
        generator = np.random.default_rng((layer.node, number))
        rows = np.sort(generator.choice(total, quota, replace=False))
    nothing = np.broadcast_to(np.float32(0), shape)
    if layer.kind != "Conv":
        return matrix_rows(x, nothing, rows)[0]
    kernel = [len(labels) for labels in layer.slot.labels[2:]]
    geometry = Geometry.of(task.nodes[layer.node], kernel, x.shape[2:], shape[2:])
    return conv_rows(x, nothing, geometry, layer.groups, rows)[0]


def _problems(task: Task, layer: Layer, gram: Array, atoms: Array) -> Iterator[Problem]:
    """One for each group of a convolution that reads some of `atoms`."""
    weight = _weights(task, layer).matrix()
    energy = float(np.einsum("gio,gio->", weight, gram @ weight))
    labels = task.found.atoms.roots(layer.in_labels).reshape(layer.groups, -1)
    taps = np.arange(_taps(layer))
    for number in range(layer.groups):
        rows = [
            (np.flatnonzero(labels[number] == atom)[:, None] * len(taps) + taps).reshape(-1)
            for atom in atoms.tolist()
        ]
        if any(len(row) for row in rows):
            yield Problem(gram[number], weight[number], rows, energy)
