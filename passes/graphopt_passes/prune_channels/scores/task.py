"""What a score is computed from, and questions that several ideas ask of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples
from graphopt.ir import constant_tensor
from graphopt.progress import Progress
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.groups import Group
from graphopt_passes.prune_channels.labelling import Labelling, Layer, Mix, Slot

TAP_BYTES = 256 << 20
"""About how much the tapped tensors of one run may take."""


@dataclass
class Task:
    """A model whose channels are to be scored.

    Attributes:
        samples: calibration data; only some ideas need it.
        limit: how many samples to use, at most.
        declined: why an idea has no score for a group, by its name.
        notes: sentences for the user.
    """

    model: ir.Model
    found: Labelling
    groups: list[Group]
    samples: Samples | None
    limit: int
    progress: Progress
    declined: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def nodes(self) -> list[ir.Node]:
        return list(self.model.graph)

    @property
    def data(self) -> Samples:
        """The samples, for the ideas that need some: `PruneChannels.required` asks for them."""
        if self.samples is None:
            raise ValueError("this score needs calibration data")
        return self.samples

    @cached_property
    def readers(self) -> list[Layer]:
        """The layers that sum over channels, with a weight for each."""
        return [layer for layer in self.found.layers if not is_depthwise(layer)]

    @cached_property
    def products(self) -> list[Mix]:
        """The other products of matrices that sum over channels."""
        return [
            mix
            for mix in self.found.mixes
            if self.nodes[mix.node].op_type in ("MatMul", "Gemm")
            and str(self.nodes[mix.node].outputs[0].name) in self.found.labels
            and any(v is not None and self.is_labelled(v) for v in self.nodes[mix.node].inputs[:2])
        ]

    def is_labelled(self, value: ir.Value) -> bool:
        """Whether `value` is computed, and its axes have labels."""
        return value.name in self.found.labels

    def constant(self, value: ir.Value | None) -> NDArray[np.float64] | None:
        """`value` in float64; None if it is not a constant of floating-point numbers."""
        tensor = constant_tensor(value)
        if tensor is None or not tensor.dtype.is_floating_point():
            return None
        return tensor.numpy().astype(np.float64)

    def value(self, slot: Slot) -> ir.Value | None:
        number, index = slot.uses[0]
        return self.nodes[number].inputs[index]

    def weight(self, layer: Layer) -> NDArray[np.float64] | None:
        return self.constant(self.nodes[layer.node].inputs[1])

    def add(self, scores: dict[int, float], labels: Labels, amounts: NDArray[Any]) -> None:
        """Adds `amounts`, one for each position of `labels`, to the scores of their atoms."""
        roots = self.found.atoms.roots(labels)
        for atom, amount in zip(roots.tolist(), amounts.tolist(), strict=True):
            scores[atom] = scores.get(atom, 0.0) + amount

    def tell_fallback(self, groups: list[Group], fallback: str) -> None:
        """Notes which groups are scored by `fallback`, and why."""
        by_reason: dict[str, list[str]] = {}
        for group in groups:
            reason = self.declined.get(group.name, "nothing that it could measure is there")
            by_reason.setdefault(reason, []).append(group.name)
        for reason, names in by_reason.items():
            shown = f"group '{names[0]}' is"
            if len(names) > 1:
                shown = f"{len(names)} groups ('{names[0]}' and others) are"
            self.notes.append(f"{shown} scored by '{fallback}': {reason}")


def out_channel_axis(layer: Layer) -> int:
    """The axis of the output of a layer that its channels are on."""
    return layer.x_axis if layer.kind == "MatMul" else 1


def is_depthwise(layer: Layer) -> bool:
    """One input channel to each group: nothing is summed over channels."""
    return layer.groups > 1 and layer.groups == len(layer.in_labels)


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


def along(array: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """The sums of `array` over all axes but one."""
    return np.asarray(array.sum(axis=tuple(a for a in range(array.ndim) if a != axis)))


def factors(task: Task, mix: Mix) -> Iterator[tuple[int, ir.Value, int]]:
    """The operands of a product: index of the input, value, and the axis that it sums over."""
    node = task.nodes[mix.node]
    for index, value in enumerate(node.inputs[:2]):
        if value is None:
            continue
        rank = len(task.found.facts.shapes[str(value.name)])
        if node.op_type == "Gemm":
            turned = node.attributes.get_int("transB" if index else "transA", 0) == 1
            axis = int(turned) if index else 1 - int(turned)
        else:
            axis = rank - 1 if index == 0 else max(rank - 2, 0)
        yield index, value, axis
