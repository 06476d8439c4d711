"""The groups of a model as a table, and why the other channels stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples
from graphopt.ir.cost import measure
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.facts import choose_sizes, gather_facts
from graphopt_passes.prune_channels.groups import Group
from graphopt_passes.prune_channels.labelling import Labelling, Slot
from graphopt_passes.prune_channels.sweep import SINGLE


def list_groups(
    model: ir.Model,
    found: Labelling,
    groups: list[Group],
    scores: Mapping[int, float],
    samples: Samples | None,
) -> dict[str, Any]:
    """What `graphopt groups` shows, as plain data.

    Args:
        model: the model that `found` was made from.
        scores: of the atoms; those of a group may be missing.
        samples: as in `analyse`.
    """
    cost = measure(model, one_sample_shapes(model, samples))
    shares = _Shares(found, groups)
    parameters, macs = np.zeros(len(groups)), np.zeros(len(groups))
    for slot in found.slots:
        parameters += shares.of(slot.labels) * math.prod(len(axis) for axis in slot.labels)
    labels = {slot.name: slot.labels for slot in found.slots} | found.labels
    for node, row in zip(model.graph, cost.per_node, strict=True):
        if row.macs:
            macs += shares.of(_worked(labels, node)) * row.macs
    made, read = (shares.layers(found, side) for side in ("out_labels", "in_labels"))
    return {
        "macs": cost.macs,
        "parameters": cost.parameters,
        "groups": [
            {
                "group": group.name,
                "channels": len(group.atoms),
                "blocks": len(group.blocks),
                "made_by": made[number],
                "read_by": read[number],
                "macs": round(macs[number]),
                "parameters": round(parameters[number]),
                "score": _spread(group, scores),
            }
            for number, group in enumerate(groups)
        ],
        "kept": kept_channels(model, found),
    }


def one_sample_shapes(model: ir.Model, samples: Samples | None) -> dict[str, tuple[int, ...]]:
    """The shapes of all values for a batch of one, other free axes as in the first sample."""
    sizes = choose_sizes(model, samples)
    firsts = {value.shape[0] for value in model.graph.inputs if value.shape}
    names = {dim.value for dim in firsts if not isinstance(dim, int)}
    for symbol in sizes.given:
        if symbol in names or symbol.endswith(" axis 0>"):
            sizes.given[symbol] = 1
    return gather_facts(model, sizes).shapes


class _Shares:
    """Which part of something is of which group."""

    def __init__(self, found: Labelling, groups: Sequence[Group]) -> None:
        self._atoms = found.atoms
        self._count = len(groups)
        self._owner = np.full(len(found.atoms), -1, dtype=np.int64)
        for number, group in enumerate(groups):
            self._owner[group.atoms] = number

    def of(self, axes: Sequence[Labels]) -> NDArray[np.float64]:
        """For each group, the share of the elements over `axes` that go with all its channels."""
        kept = np.ones(self._count)
        for labels in axes:
            kept *= 1 - self._counts(labels) / max(len(labels), 1)
        return 1 - kept

    def layers(self, found: Labelling, side: str) -> list[list[str]]:
        """For each group, the layers with a channel of it on that side."""
        names: list[list[str]] = [[] for _ in range(self._count)]
        for layer in found.layers:
            for number in np.flatnonzero(self._counts(getattr(layer, side))).tolist():
                names[number].append(layer.name)
        return names

    def _counts(self, labels: Labels) -> NDArray[np.int64]:
        owners = self._owner[self._atoms.roots(labels)]
        return np.bincount(owners[owners >= 0], minlength=self._count)


def _worked(labels: Mapping[str, list[Labels]], node: ir.Node) -> list[Labels]:
    """The axes that the multiply-accumulates of a convolution or product run over."""
    left, right = (labels.get(str(value.name), []) for value in node.inputs[:2] if value)
    if node.op_type not in ("Gemm", "MatMul"):
        return right
    turned = node.attributes.get_int("transA", 0) == 1
    return [*right, *(left[-1:] if turned else left[-2:-1])]


def _spread(group: Group, scores: Mapping[int, float]) -> dict[str, float] | None:
    known = [scores[atom] for atom in group.atoms.tolist() if atom in scores]
    if len(known) < len(group.atoms):
        return None
    low, middle, high = np.quantile(known, (0, 0.5, 1)).tolist()
    return {"min": low, "median": middle, "max": high}


def kept_channels(model: ir.Model, found: Labelling) -> list[dict[str, Any]]:
    """The channels of weights that stay: for each reason, how many and of which weights.

    The height and width of kernels, and the axis of the directions of a recurrent layer, are no
    channels. Nobody expects the only channel of an axis to go.
    """
    nodes = list(model.graph)
    counts: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    for slot in found.slots:
        for axis in _channel_axes(nodes, slot):
            for atom, number in zip(*np.unique(slot.labels[axis], return_counts=True), strict=True):
                reason = found.atoms.reason(int(atom))
                if reason is not None and reason != SINGLE:
                    counts[reason] += int(number)
                    if slot.name not in names.setdefault(reason, []):
                        names[reason].append(slot.name)
    return [
        {"reason": reason, "channels": number, "weights": names[reason]}
        for reason, number in counts.items()
    ]


def _channel_axes(nodes: Sequence[ir.Node], slot: Slot) -> range:
    rank = len(slot.labels)
    number, index = slot.uses[0]
    op_type = nodes[number].op_type
    if rank < 2:  # a bias goes with its weight
        return range(0)
    if op_type in ("Conv", "ConvTranspose") and index == 1:
        return range(2)
    if op_type in ("GRU", "LSTM", "RNN"):
        return range(1, rank)
    return range(rank)
