"""Sets of channels to rescale together, and what happens to the model for given factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Names, add_initializer, constant_array, label, sole_use
from graphopt.ir.facts import Facts
from graphopt_passes.equalize import rules_moves, rules_weights
from graphopt_passes.equalize.sweep import Labelling, Slot, Sweep
from graphopt_passes.prune_channels.atoms import Labels

Factors = NDArray[np.float64]
"""The factor of each channel that can be scaled, by its number; number 0 is all that cannot."""


@dataclass(frozen=True)
class Group:
    """The channels of one tensor, and those that are scaled with them."""

    name: str
    """The first node that makes them."""
    channels: NDArray[np.int64]
    """Their numbers, in ascending order."""
    makers: tuple[ir.Node, ...]


class Channels:
    """The channels of a model that can be scaled, by number.

    Every float tensor, and every constant that takes up factors, has an array of numbers that
    broadcasts to it.
    """

    def __init__(self, model: ir.Model, facts: Facts) -> None:
        self._found = Sweep(model, facts).run(rules_weights.RULES | rules_moves.RULES)
        self._numbers, self.count = _numbered(self._found)
        self.groups = _grouped(self._found, self._numbers)
        used = [(slot, self._used(slot)) for slot in self._found.slots]
        self._slots = [(slot, numbers) for slot, numbers in used if numbers]

    @property
    def slots(self) -> list[Slot]:
        """The constants that take up factors."""
        return [slot for slot, _ in self._slots]

    def slots_of(self, group: Group) -> list[Slot]:
        """Those that take up factors of `group`."""
        own = set(group.channels.tolist())
        return [slot for slot, numbers in self._slots if not numbers.isdisjoint(own)]

    def of(self, value: ir.Value | None) -> NDArray[np.int64]:
        """The numbers of the channels of `value`, of its rank or (none can be scaled) rank 0."""
        labels = None if value is None else self._found.labels.get(value)
        return np.zeros((), np.int64) if labels is None else self._numbers[labels]

    def up(self, slot: Slot, factors: Factors) -> Factors:
        return self._factors(slot.up, factors)

    def down(self, slot: Slot, factors: Factors) -> Factors:
        return self._factors(slot.down, factors)

    def numbers(self, labels: Labels | None) -> NDArray[np.int64]:
        return np.zeros((), np.int64) if labels is None else self._numbers[labels]

    def _factors(self, labels: Labels | None, factors: Factors) -> Factors:
        return np.asarray(factors[self.numbers(labels)])

    def _used(self, slot: Slot) -> frozenset[int]:
        both = (np.unique(self.numbers(labels)) for labels in (slot.up, slot.down))
        return frozenset(np.concatenate(list(both)).tolist()) - {0}


def _numbered(found: Labelling) -> tuple[NDArray[np.int64], int]:
    """The number of each atom's channel, 0 for a frozen one; and how many numbers there are."""
    every = np.arange(len(found.atoms), dtype=np.int64)
    roots = found.atoms.roots(every)
    free = found.atoms.free(every)
    numbers = np.zeros(len(every), np.int64)
    numbers[free] = np.arange(1, len(free) + 1)
    return numbers[roots], len(free) + 1


def _grouped(found: Labelling, numbers: NDArray[np.int64]) -> tuple[Group, ...]:
    """Makers that share a channel are one group, in the order of their first makers."""
    owner: dict[int, int] = {}
    leader = list(range(len(found.makers)))
    for place, maker in enumerate(found.makers):
        for number in np.unique(numbers[maker.atoms]).tolist():
            if number:
                first = owner.setdefault(number, leader[place])
                old, new = sorted((leader[first], leader[place]), reverse=True)
                leader = [new if other == old else other for other in leader]
    groups = []
    for place in dict.fromkeys(leader):
        makers = [m for m, other in zip(found.makers, leader, strict=True) if other == place]
        used = np.unique(np.concatenate([numbers[maker.atoms] for maker in makers]))
        nodes = tuple(maker.node for maker in makers)
        if used.any():
            groups.append(Group(label(nodes[0]), used[used > 0], nodes))
    return tuple(groups)


def rescale(model: ir.Model, channels: Channels, factors: Factors) -> bool:
    """Multiplies each constant of `model` by what `factors` ask of it; whether any changed.

    A constant that something else reads too gets a copy.
    """
    names = Names(model)
    changed = False
    for slot in channels.slots:
        factor = channels.up(slot, factors) / channels.down(slot, factors)
        if np.any(factor != 1):
            _multiply(model, names, slot, factor)
            changed = True
    return changed


def keeps_bits(channels: Channels, group: Group, factors: Factors) -> bool:
    """Whether each constant that `group` goes into keeps all its bits: none becomes infinite, or
    so small that its type has fewer for it."""
    for slot in channels.slots_of(group):
        array = constant_array(slot.node.inputs[slot.index])
        factor = channels.up(slot, factors) / channels.down(slot, factors)
        if array is None or not np.array_equal(scaled(array, factor) / factor, array, True):
            return False
    return True


def scaled(array: NDArray[Any], factor: Factors) -> NDArray[Any]:
    """`array` times `factor`, in its own type."""
    with np.errstate(over="ignore"):  # to infinity; see `keeps_bits`
        return (array.astype(np.float64) * factor).astype(array.dtype)


def _multiply(model: ir.Model, names: Names, slot: Slot, factor: Factors) -> None:
    old = slot.node.inputs[slot.index]
    array = constant_array(old)
    if old is None or array is None:
        raise ValueError(f"input {slot.index} of '{label(slot.node)}' is no constant")
    new = scaled(array, factor)
    if old.is_initializer() and sole_use(old) is not None:
        old.const_value = ir.Tensor(new, name=old.name)
        return
    value = add_initializer(model.graph, names.fresh(f"{old.name}_equalized"), new)
    slot.node.replace_input_with(slot.index, value)
    producer = old.producer()
    if producer is not None and not old.uses() and not old.is_graph_output():
        model.graph.remove(producer, safe=True)
