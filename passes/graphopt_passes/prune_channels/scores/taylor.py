"""First-order Taylor expansion: how far the loss moves when a channel is shut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed, batches, input_specs
from graphopt.gradients import Backward, Edge
from graphopt.ir import is_standard
from graphopt.runtime.session import Session
from graphopt.runtime.tap import require_finite, tapped
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.scores.task import TAP_BYTES, Task, batch_within, factors

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class _Read:
    """Where channels are summed over: an edge, the axis of the value, and its labels."""

    edge: Edge
    name: str
    axis: int
    labels: Labels


def taylor_scores(task: Task) -> dict[int, float]:
    """For each atom the mean over samples of |sum of x dL/dx| over all that read its channels.

    The sum goes over the positions and readers of a sample: it is the derivative of the loss L with
    respect to a gate on the channels (Molchanov et al. 2017, "Pruning Convolutional Neural Networks
    for Resource Efficient Inference", section 2.2; 2019, "Importance Estimation", section 3.1).
    There are no labels: for how L is made from the outputs, see `_seed`.

    A group has no score if an operator without a rule (`graphopt.gradients.RULES`) is between its
    readers and the outputs, or if no layer or product reads its channels.

    Raises:
        GraphoptError: if what a layer reads, or an output, is NaN or infinite somewhere.
    """
    reads = list(_reads(task))
    outputs = [
        str(value.name)
        for value in task.model.graph.outputs
        if value.dtype is not None and value.dtype.is_floating_point()
    ]
    backward = Backward(task.model, [read.edge for read in reads], outputs)
    clear = _clear(task, reads, backward.blocked)
    if not clear:
        return {}
    backward = Backward(task.model, [read.edge for read in clear], outputs)
    atoms = np.unique(np.concatenate([task.found.atoms.roots(read.labels) for read in clear]))
    total = np.zeros(len(atoms))
    count = 0
    checked = list(dict.fromkeys([*(read.name for read in clear), *outputs]))
    for values, seeds, (rows, real) in _runs(task, backward, checked):
        gates = _gates(task, clear, backward.run(values, seeds), values, atoms, rows)
        total += np.abs(gates[:real]).sum(axis=0)
        count += len(gates[:real])
    mean = total / max(count, 1)
    return dict(zip(atoms.tolist(), mean.tolist(), strict=True))


def _reads(task: Task) -> Iterator[_Read]:
    for layer in task.readers:
        name = str(task.nodes[layer.node].inputs[0].name)  # type: ignore[union-attr]
        yield _Read((layer.node, 0), name, layer.x_axis, layer.in_labels)
    for mix in task.products:
        operands = factors(task, mix)
        index, value, axis = next(o for o in operands if task.is_labelled(o[1]))
        name = str(value.name)
        yield _Read((mix.node, index), name, axis, task.found.labels[name][axis])


def _clear(task: Task, reads: list[_Read], blocked: Mapping[Edge, str]) -> list[_Read]:
    """The reads of the groups that can be scored; the others are declined."""
    reading: dict[int, list[_Read]] = {}
    for read in reads:
        for root in np.unique(task.found.atoms.roots(read.labels)).tolist():
            reading.setdefault(root, []).append(read)
    clear: dict[Edge, _Read] = {}
    for group in task.groups:
        mine = reading.get(int(group.atoms[0]), [])
        walls = [blocked[read.edge] for read in mine if read.edge in blocked]
        if walls:
            task.declined[group.name] = f"there is no gradient through {walls[0]}"
        elif not mine:
            task.declined[group.name] = "no layer and no product reads its channels"
        else:
            clear.update({read.edge: read for read in mine})
    return list(clear.values())


def _runs(
    task: Task, backward: Backward, checked: list[str]
) -> Iterator[tuple[Feed, dict[str, Array], tuple[int, int]]]:
    """For each run: values, the gradient of the loss at the outputs, how many samples it has, and
    how many of them are not copies that fill it up. The values `checked` have to be finite."""
    names = list(dict.fromkeys([*backward.values, *checked]))
    known = [name for name in names if name in task.found.facts.shapes]
    batch = batch_within(task.found, known, TAP_BYTES)
    session = Session(tapped(task.model, names))
    specs = input_specs(task.model)
    feeds = task.progress.track(
        batches(task.data, specs, batch, task.limit), "scoring channels", None
    )
    for number, (feed, real) in enumerate(feeds):
        values = session.run({name: a for name, a in feed.items() if name in session.inputs})
        for name in checked:
            require_finite(name, values[name])
        rows = len(next(iter(feed.values())))
        seeds = {
            value.name: _seed(value, values[value.name], rows, number)
            for value in task.model.graph.outputs
            if value.name in checked
        }
        yield {n: _without_masked(a) for n, a in values.items()}, seeds, (rows, real)


def _without_masked(array: Array) -> Array:
    """`array` with zeros for what is not finite.

    In a model with finite outputs that is masked behind: its gradient is zero, which times
    infinity would be NaN.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array
    return np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)


def _seed(output: ir.Value, y: Array, rows: int, number: int) -> Array:
    """The gradient of the loss at an output.

    One of shape [samples, classes] is taken for logits (or for what Softmax or LogSoftmax makes of
    them): the loss is the cross-entropy with the class that the model itself says. Of any other,
    the loss is a projection onto random signs, relative to its root mean square: over the
    samples, its derivatives have the size of those of the output.
    """
    y = y.astype(np.float64 if y.dtype == np.float64 else np.float32)
    if y.ndim != 2 or len(y) != rows or y.shape[1] == 1:
        signs = np.random.default_rng(number).choice([-1.0, 1.0], y.shape)
        return np.asarray(signs / max(math.sqrt(np.square(y).mean()), 1e-30), y.dtype)
    label = np.arange(y.shape[1]) == y.argmax(axis=1)[:, None]
    producer = output.producer()
    if producer is not None and is_standard(producer, "LogSoftmax"):
        return np.asarray(-label.astype(y.dtype))
    if producer is not None and is_standard(producer, "Softmax"):
        return np.asarray(-label.astype(y.dtype) / np.where(label, np.maximum(y, 1e-30), 1))
    exponents = np.exp(y - y.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True) - label)


def _gates(
    task: Task,
    reads: list[_Read],
    gradients: Iterator[tuple[Edge, Array]],
    values: Feed,
    atoms: Labels,
    rows: int,
) -> Array:
    """The sum of x dL/dx for each sample of a run and each of `atoms`: [rows, atoms].

    Where nothing tells the samples of a run apart, all of them together count as one: [1, atoms].
    """
    by_edge = {read.edge: read for read in reads}
    gates = np.zeros((rows, len(atoms)))
    apart = True
    for edge, gradient in gradients:
        read = by_edge[edge]
        product = values[read.name] * gradient
        axis = _batch_axis(task.found.facts.symbols[read.name], product.shape, rows, read.axis)
        apart = apart and axis is not None
        product = np.moveaxis(product, (axis or 0, read.axis), (0, -1))
        parts = product.reshape(rows if axis is not None else 1, -1, product.shape[-1]).sum(axis=1)
        columns = np.searchsorted(atoms, task.found.atoms.roots(read.labels))
        if axis is None:
            parts = np.concatenate([parts, np.zeros((rows - 1, parts.shape[1]))])
        np.add.at(gates.T, columns, parts.T)
    return gates if apart else gates.sum(axis=0, keepdims=True)


def _batch_axis(
    symbols: tuple[int | str | None, ...], shape: tuple[int, ...], rows: int, channels: int
) -> int | None:
    """The axis along which the samples of a run lie, each in one piece."""
    axes = [axis for axis in range(len(shape)) if axis != channels]
    named = [a for a in axes if shape[a] == rows and not isinstance(symbols[a], int)]
    whole = [a for a in axes[:1] if a == 0 and shape[a] % rows == 0]
    return next((axis for axis in (*named, *whole)), None)
