"""The energy that a channel carries into the layers that read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import constant_array
from graphopt.runtime.tap import require_finite, tap
from graphopt_passes.prune_channels.labelling import Layer
from graphopt_passes.prune_channels.scores.magnitude import l1_scores
from graphopt_passes.prune_channels.scores.task import (
    TAP_BYTES,
    Task,
    along,
    batch_within,
    factors,
    out_channel_axis,
)


def activation_scores(task: Task) -> dict[int, float]:
    """For each atom the share of the energy of its readers that its channels carry.

    Summed over all layers that read channel c: |W[:, c]|^2 E[x_c^2] / E[|y|^2], where E is the mean
    over samples and positions; for a product of two activations, E[a_c^2] E[b_c^2] / E[y^2], and
    likewise for other products with a constant.
    An atom that no such layer reads gets its L1 score; a group has the one or the other.

    Raises:
        GraphoptError: if one of these values is NaN or infinite.
    """
    nodes, found = task.nodes, task.found
    energies = _Energies(task)
    readers = [(layer, w) for layer in task.readers if (w := task.weight(layer)) is not None]
    for layer, _ in readers:
        energies.want(nodes[layer.node].inputs[0], layer.x_axis)
        energies.want(nodes[layer.node].outputs[0], out_channel_axis(layer))
    for mix in task.products:
        for _, value, axis in factors(task, mix):
            energies.want(value, axis)
        energies.want(nodes[mix.node].outputs[0], None)
    energies.measure()

    scores: dict[int, float] = {}
    for layer, weight in readers:
        total = energies.get(nodes[layer.node].outputs[0], out_channel_axis(layer)).sum()
        energy = energies.get(nodes[layer.node].inputs[0], layer.x_axis)
        squares = _squares_by_channel(weight, layer)
        task.add(scores, layer.in_labels, squares * energy / max(total, 1e-30))
    for mix in task.products:
        operands = [(value, axis) for _, value, axis in factors(task, mix)]
        total = energies.get(nodes[mix.node].outputs[0], None).sum()
        product = np.prod([energies.get(value, axis) for value, axis in operands], axis=0)
        read, axis = next((v, axis) for v, axis in operands if task.is_labelled(v))
        task.add(scores, found.labels[str(read.name)][axis], product / max(total, 1e-30))
    for atom, score in l1_scores(task).items():
        scores.setdefault(atom, score)
    return scores


class _Energies:
    """The mean square of tapped values along one axis, or (axis None) of the whole value."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._sums: dict[tuple[str, int | None], NDArray[np.float64]] = {}
        self._counts: dict[tuple[str, int | None], int] = {}
        self._constants: set[str] = set()

    def want(self, value: ir.Value | None, axis: int | None) -> None:
        if value is not None:
            self._sums[str(value.name), axis] = np.zeros(())
            self._counts[str(value.name), axis] = 0
            constant = constant_array(value)
            if constant is not None:
                self._constants.add(str(value.name))
                self._count(str(value.name), axis, constant)

    def get(self, value: ir.Value | None, axis: int | None) -> NDArray[np.float64]:
        key = (str(value.name) if value is not None else "", axis)
        return self._sums[key] / max(self._counts[key], 1)

    def measure(self) -> None:
        wanted = [key for key in self._sums if key[0] not in self._constants]
        names = list(dict.fromkeys(name for name, _ in wanted))
        if not names:
            return
        task = self._task
        taps = tap(
            task.model,
            names,
            task.data,
            batch=batch_within(task.found, names, TAP_BYTES),
            limit=task.limit,
            progress=task.progress,
            description="scoring channels",
        )
        for values in taps:
            for name, array in values.items():
                require_finite(name, array)
            for name, axis in wanted:
                self._count(name, axis, values[name])

    def _count(self, name: str, axis: int | None, values: NDArray[Any]) -> None:
        array = values.astype(np.float64)
        length = array.shape[axis] if axis is not None else 1
        self._counts[name, axis] += array.size // max(length, 1)
        self._sums[name, axis] = self._sums[name, axis] + along(np.square(array, out=array), axis)


def _squares_by_channel(weight: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    """|W[:, c]|^2 for each channel c of the input."""
    squares = np.square(weight)
    if layer.groups == 1:
        return along(squares, layer.in_axis)
    grouped = squares.reshape(layer.groups, -1, *squares.shape[1:])
    return np.asarray(grouped.sum(axis=(1, *range(3, grouped.ndim))).reshape(-1))
