"""How much each channel matters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples
from graphopt.ir import constant_array
from graphopt.progress import Progress
from graphopt.runtime.tap import require_finite, tap
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.labelling import Labelling, Layer, Mix

TAP_BYTES = 256 << 20
"""About how much the tapped tensors of one run may take."""


def l1_scores(model: ir.Model, found: Labelling) -> dict[int, float]:
    """For each atom the sum of |w| over the weight slices that make its channels.

    Channels that no layer makes are made by a product with a constant on its left, or of more than
    two axes; where there is none either, all constants that they occur in count. All atoms of a
    group are of the same kind. Atoms in no floating-point constant have no score.
    """
    nodes = list(model.graph)
    layers = [(layer.slot, layer.out_axis) for layer in found.layers]
    products = [
        (slot, axis)
        for slot in found.slots
        for number, index in slot.uses
        if nodes[number].op_type in ("MatMul", "Gemm")
        and (axis := _made_axis(nodes[number], index, len(slot.labels))) is not None
    ]
    others = [(slot, axis) for slot in found.slots for axis in range(len(slot.labels))]
    scores: dict[int, float] = {}
    for places in (layers, products, others):
        more: dict[int, float] = {}
        for slot, axis in places:
            number, index = slot.uses[0]
            array = constant_array(nodes[number].inputs[index])
            if array is None or not found.facts.types[slot.name].is_floating_point():
                continue
            _add(found, more, slot.labels[axis], _along(np.abs(array.astype(np.float64)), axis))
        scores = more | scores
    return scores


def _made_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """The axis of the constant input `index` of a product that its output takes over."""
    if rank < 2 or index > 1:
        return None
    if node.op_type == "Gemm":
        turned = node.attributes.get_int("transB" if index else "transA", 0) == 1
        return index ^ turned
    return rank - 1 if index else rank - 2


def _along(array: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """The sums of `array` over all axes but one."""
    return np.asarray(array.sum(axis=tuple(a for a in range(array.ndim) if a != axis)))


def activation_scores(
    model: ir.Model, found: Labelling, samples: Samples, limit: int, progress: Progress
) -> dict[int, float]:
    """For each atom the share of the energy of its readers that its channels carry.

    Summed over all layers that read channel c: |W[:, c]|^2 E[x_c^2] / E[|y|^2], where E is the mean
    over samples and positions; for a product of two activations, E[a_c^2] E[b_c^2] / E[y^2], and
    likewise for other products with a constant.
    An atom that no such layer reads gets its L1 score; a group has the one or the other.

    Raises:
        GraphoptError: if one of these values is NaN or infinite.
    """
    nodes = list(model.graph)
    energies = _Energies(found)
    readers = [layer for layer in found.layers if not is_depthwise(layer)]
    products = [
        mix
        for mix in found.mixes
        if nodes[mix.node].op_type in ("MatMul", "Gemm")
        and str(nodes[mix.node].outputs[0].name) in found.labels
        and any(v is not None and v.name in found.labels for v in nodes[mix.node].inputs[:2])
    ]
    for layer in readers:
        energies.want(nodes[layer.node].inputs[0], layer.x_axis)
        energies.want(nodes[layer.node].outputs[0], out_channel_axis(layer))
    for mix in products:
        for value, axis in _factors(nodes[mix.node], mix, found):
            energies.want(value, axis)
        energies.want(nodes[mix.node].outputs[0], None)
    energies.measure(model, samples, limit, progress)

    scores: dict[int, float] = {}
    for layer in readers:
        total = energies.get(nodes[layer.node].outputs[0], out_channel_axis(layer)).sum()
        energy = energies.get(nodes[layer.node].inputs[0], layer.x_axis)
        squares = _squares_by_channel(_weight(nodes, layer), layer)
        _add(found, scores, layer.in_labels, squares * energy / max(total, 1e-30))
    for mix in products:
        factors = _factors(nodes[mix.node], mix, found)
        total = energies.get(nodes[mix.node].outputs[0], None).sum()
        product = np.prod([energies.get(value, axis) for value, axis in factors], axis=0)
        read, axis = next((v, axis) for v, axis in factors if v.name in found.labels)
        labels = found.labels[str(read.name)][axis]
        _add(found, scores, labels, product / max(total, 1e-30))
    for atom, score in l1_scores(model, found).items():
        scores.setdefault(atom, score)
    return scores


def _factors(node: ir.Node, mix: Mix, found: Labelling) -> list[tuple[ir.Value, int]]:
    """The operands of a product, with the axis that it sums over."""
    factors = []
    for index, value in enumerate(node.inputs[:2]):
        if value is None:
            continue
        rank = len(found.facts.shapes[str(value.name)])
        if node.op_type == "Gemm":
            turned = node.attributes.get_int("transB" if index else "transA", 0) == 1
            axis = int(turned) if index else 1 - int(turned)
        else:
            axis = rank - 1 if index == 0 else max(rank - 2, 0)
        factors.append((value, axis))
    return factors


class _Energies:
    """The mean square of tapped values along one axis, or (axis None) of the whole value."""

    def __init__(self, found: Labelling) -> None:
        self._found = found
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

    def measure(self, model: ir.Model, samples: Samples, limit: int, progress: Progress) -> None:
        wanted = [key for key in self._sums if key[0] not in self._constants]
        names = list(dict.fromkeys(name for name, _ in wanted))
        batch = batch_within(self._found, names, TAP_BYTES)
        taps = tap(
            model, names, samples, batch=batch, limit=limit, progress=progress,
            description="scoring channels",
        )  # fmt: skip
        for values in taps:
            for name, array in values.items():
                require_finite(name, array)
            for name, axis in wanted:
                self._count(name, axis, values[name])

    def _count(self, name: str, axis: int | None, values: NDArray[Any]) -> None:
        array = values.astype(np.float64)
        length = array.shape[axis] if axis is not None else 1
        self._counts[name, axis] += array.size // max(length, 1)
        self._sums[name, axis] = self._sums[name, axis] + _along(np.square(array, out=array), axis)


def out_channel_axis(layer: Layer) -> int:
    """The axis of the output of a layer that its channels are on."""
    return layer.x_axis if layer.kind == "MatMul" else 1


def batch_within(found: Labelling, names: Iterable[str], budget: int) -> int:
    """How many samples to run at once, so that the values `names` take about `budget` bytes."""
    per_sample = 0.0
    for name in names:
        shape = found.facts.shapes[name]
        free = [
            n
            for n, symbol in zip(shape, found.facts.symbols[name], strict=True)
            if not isinstance(symbol, int)
        ]
        batch = free[0] if free and shape and free[0] == shape[0] else 1
        per_sample += 4.0 * math.prod(shape) / max(batch, 1)
    return int(min(32, max(1, budget // max(per_sample, 1.0))))


def _squares_by_channel(weight: NDArray[Any], layer: Layer) -> NDArray[np.float64]:
    """|W[:, c]|^2 for each channel c of the input."""
    squares = np.square(weight.astype(np.float64))
    if layer.groups == 1:
        others = tuple(a for a in range(squares.ndim) if a != layer.in_axis)
        return np.asarray(squares.sum(axis=others))
    grouped = squares.reshape(layer.groups, -1, *squares.shape[1:])
    return np.asarray(grouped.sum(axis=(1, *range(3, grouped.ndim))).reshape(-1))


def is_depthwise(layer: Layer) -> bool:
    """One input channel to each group: nothing is summed over channels."""
    return layer.groups > 1 and layer.groups == len(layer.in_labels)


def _weight(nodes: Sequence[ir.Node], layer: Layer) -> NDArray[Any]:
    array = constant_array(nodes[layer.node].inputs[1])
    assert array is not None
    return array


def _add(
    found: Labelling, scores: dict[int, float], labels: Labels, amounts: NDArray[np.float64]
) -> None:
    for atom, amount in zip(found.atoms.roots(labels).tolist(), amounts.tolist(), strict=True):
        scores[atom] = scores.get(atom, 0.0) + amount
