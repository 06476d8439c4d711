"""Sets of channels to rescale together, and what happens to the model for given factors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Names, add_initializer, constant_array, label, sole_use
from graphopt.ir.facts import Facts
from graphopt_passes.equalize import rules_moves, rules_weights
from graphopt_passes.equalize.sweep import Labelling, Maker, Slot, Sweep
from graphopt_passes.prune_channels.atoms import Labels

T = TypeVar("T")
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
        self._homes = np.full(self.count, -1)
        for place, group in enumerate(self.groups):
            self._homes[group.channels] = place
        used = [(slot, self._used(slot)) for slot in self._found.slots]
        self.slots = [slot for slot, numbers in used if numbers.any()]
        """The constants that take up factors."""
        self._makers: dict[int, list[int]] = {}
        self._by_input: dict[tuple[ir.Node, int], Slot] = {}
        for place, slot in enumerate(self.slots):
            self._by_input.setdefault((slot.node, slot.index), slot)
            if self.numbers(slot.up).any():
                for number in np.unique(self.numbers(slot.up)).tolist():
                    self._makers.setdefault(number, []).append(place)
        self._slots = self.by_group([(slot, numbers) for slot, numbers in used if numbers.any()])

    def by_group(self, sets: Iterable[tuple[T, NDArray[np.int64]]]) -> list[list[T]]:
        """For each of `groups`, what comes with numbers of its channels, in order."""
        found: list[list[T]] = [[] for _ in self.groups]
        for each, numbers in sets:
            for place in np.unique(self._homes[numbers]).tolist():
                if place >= 0:
                    found[place].append(each)
        return found

    def slots_of(self, group: Group) -> list[Slot]:
        """The constants that take up factors of `group`."""
        return self._slots[self._homes[group.channels[0]]]

    def slot_at(self, node: ir.Node, index: int) -> Slot | None:
        """The constant that takes up factors as this input of `node`."""
        return self._by_input.get((node, index))

    def makers_of(self, numbers: NDArray[np.int64]) -> list[Slot]:
        """The constants that make the channels of these numbers, in order."""
        found = (self._makers.get(number, []) for number in numbers.tolist())
        return [self.slots[place] for place in sorted({p for places in found for p in places})]

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

    def _used(self, slot: Slot) -> NDArray[np.int64]:
        both = (np.unique(self.numbers(labels)) for labels in (slot.up, slot.down))
        return np.concatenate(list(both))


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
    leaders = list(range(len(found.makers)))

    def leader(place: int) -> int:
        while leaders[place] != place:
            leaders[place] = leaders[leaders[place]]
            place = leaders[place]
        return place

    for place, maker in enumerate(found.makers):
        for number in np.unique(numbers[maker.atoms]).tolist():
            if number:
                old, new = leader(owner.setdefault(number, place)), leader(place)
                leaders[max(old, new)] = min(old, new)
    members: dict[int, list[Maker]] = {}
    for place, maker in enumerate(found.makers):
        members.setdefault(leader(place), []).append(maker)
    groups = []
    for makers in members.values():
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
