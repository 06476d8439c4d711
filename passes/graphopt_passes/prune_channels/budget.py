"""What is left of a model's MACs, parameters or bytes after a cut, told without building it.

The MACs of a layer are a product of lengths of axes, and so are the elements of a constant: each is
a term, its amount in the uncut model times the share of each of its axes that stays. Time is told
alike, only that it is not in proportion to every axis: see `Pace`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Cost, is_standard, measure
from graphopt.targets import Pace
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.groups import Cut, Group
from graphopt_passes.prune_channels.labelling import Labelling, Slot
from graphopt_passes.prune_channels.rules_sequence import RECURRENT

Quantity: TypeAlias = Literal["macs", "params", "bytes"]
Array: TypeAlias = "NDArray[Any]"

MAPS = 4
"""The axes of what a Conv over maps makes: a `Pace` is of such."""

TITLES: dict[Quantity, str] = {"macs": "MACs", "params": "parameters", "bytes": "bytes of weights"}


def amount(cost: Cost, quantity: Quantity) -> int:
    """The figure of `cost` that goes by the name `quantity`."""
    figures = {"macs": cost.macs, "params": cost.parameters, "bytes": cost.weight_bytes}
    return figures[quantity]


def count_cost(model: ir.Model, found: Labelling, cut: Cut | None = None) -> Cost:
    """The cost of one sample, with the shapes that the analysis found where no others are known.

    Args:
        model: what `found` was made from, or that after `cut`.
    """
    batch = {
        symbols[0]: found.facts.shapes[str(value.name)][0]
        for value in model.graph.inputs
        if (symbols := found.facts.symbols.get(str(value.name))) and isinstance(symbols[0], str)
    }
    # The size of a free batch is a prime that divides no other dimension: see `choose_sizes`.
    size = next(iter(batch.values()), 1)
    shapes = {
        name: tuple(
            (n // size if n % size == 0 else n)
            if cut is None or not cut.touches(labels)
            else cut.count(labels)
            for n, labels in zip(found.facts.shapes[name], axes, strict=True)
        )
        for name, axes in found.labels.items()
        if name in found.facts.shapes
    }
    return measure(model, shapes)


def recurrent_parts(
    weight: list[Labels], recurrence: list[Labels]
) -> Iterator[tuple[Fraction, list[Labels]]]:
    """The shares of W and of R in the MACs of an LSTM, GRU or RNN, with the axes of each."""
    sizes = [math.prod(len(axis) for axis in axes) for axes in (weight, recurrence)]
    for size, axes in zip(sizes, (weight, recurrence), strict=True):
        yield Fraction(size, sum(sizes)), axes


def conv_time(pace: Pace, channels: Array) -> Array:
    """The time of Convs that make so many channels, in that of a whole set of blocks.

    Part of a block counts in proportion, so that every channel saves something.
    """
    edges = pace.block * np.arange(len(pace.sets) + 1)
    sets, rest = np.divmod(channels, edges[-1])
    return sets + np.interp(rest, edges, (0.0, *pace.sets))


@dataclass(frozen=True)
class _Term:
    """Something that costs `amount`, and less by what its axes lose.

    Attributes:
        slow: the time of one of it in the uncut model, in the unit of `Pace`.
        made: the axis along which time goes by `conv_time`, and in how many groups.
    """

    amount: int
    axes: tuple[int, ...]
    slow: float = 1.0
    made: tuple[int, int] | None = None


class Budget:
    """One quantity of `model`, from which `found` was made, as channels of `groups` go.

    Cutting is tried out on `lengths`, the number of positions left on each axis (see `full`).

    MACs are those of `graphopt.ir.measure` on the pruned model. Parameters and bytes are as well,
    but for a few integers: shapes that the nodes of a model share, and must not share any more.
    """

    def __init__(
        self,
        model: ir.Model,
        found: Labelling,
        groups: list[Group],
        quantity: Quantity,
        pace: Pace | None = None,
    ) -> None:
        """Looks up what the model costs.

        Args:
            pace: of the target, for MACs; None where time is taken to be in proportion to them.
        """
        self._found = found
        self._pace = pace if quantity == "macs" else None
        self._axes: dict[bytes, int] = {}
        self._labels: list[Labels] = []
        cost = count_cost(model, found)
        self.whole = amount(cost, quantity)
        """Of the uncut model."""
        self._shared: list[tuple[float, int, list[Slot]]] = []
        if quantity == "macs":
            macs = [row.macs or 0 for row in cost.per_node]
            terms = list(self._of_nodes(model, macs))
        else:
            terms = list(self._of_constants(model, elements=quantity == "params"))
        self._terms = terms
        self._fixed = self.whole - sum(term.amount for term in terms)
        self.full: Array = np.array([len(labels) for labels in self._labels], dtype=np.float64)
        """The length of each axis."""
        self._count_places(groups)
        touching = _touching(terms, [axes for axes, _ in self._places])
        self._touching = [self._index(taken) for taken in touching]
        self._all = self._index(terms)
        made = dict.fromkeys(term.made for term in terms if term.made is not None)
        self._made = {each: number for number, each in enumerate(made)}
        self._timed = [self._index([self._in_time(term) for term in taken]) for taken in touching]

    def left(self, cut: Cut) -> int:
        """What the model costs after `cut`."""
        terms = _total(*self._all, self._lengths(cut) / self.full)
        return self._fixed + int(terms) + self._of_shared(cut)

    def without(self, group: int, atoms: Array, lengths: Array) -> Array:
        """`lengths` after cutting those of the group's atoms that `atoms` (a mask) names."""
        axes, places = self._places[group]
        lengths = lengths.copy()
        lengths[axes] -= places @ atoms
        return lengths

    def saved(self, group: int, before: Array, after: Array) -> float:
        """By how much the cost falls from lengths `before` to `after`, which cut `group` alone."""
        terms = self._touching[group]
        return _total(*terms, before / self.full) - _total(*terms, after / self.full)

    def time_saved(self, group: int, before: Array, after: Array) -> float:
        """The same for the time, in the unit of `Pace`; without a pace for the cost again."""
        if self._pace is None:
            return self.saved(group, before, after)
        terms = self._timed[group]
        return _total(*terms, self._paced(before)) - _total(*terms, self._paced(after))

    def parts(self, cut: Cut | None = None) -> list[int]:
        """What the parts of the model that shrink with each group cost, in all or after `cut`."""
        shares = (self.full if cut is None else self._lengths(cut)) / self.full
        return [int(_total(*terms, shares)) for terms in self._touching]

    def _lengths(self, cut: Cut) -> Array:
        return np.array([cut.count(labels) for labels in self._labels], dtype=np.float64)

    def _of_nodes(self, model: ir.Model, macs: list[int]) -> Iterator[_Term]:
        slots = {use: slot for slot in self._found.slots for use in slot.uses}
        for number, (node, count) in enumerate(zip(model.graph, macs, strict=True)):
            if not count:
                continue
            data, weight = (self._operand(node, number, index, slots) for index in (0, 1))
            kernel = weight[1:] if (number, 1) in slots else []
            output = self._found.labels.get(str(node.outputs[0].name), [])
            axes: list[Labels] = []
            if is_standard(node, "Conv"):
                yield self._of_conv(node, count, output, kernel)
                continue
            if is_standard(node, "ConvTranspose"):
                axes = [*data, *kernel]
            elif is_standard(node, "MatMul"):
                axes = [*output, data[-1]] if data else []
            elif is_standard(node, "Gemm"):
                inner = 0 if node.attributes.get_int("transA", 0) else 1
                axes = [*output, data[inner]] if data else []
            elif is_standard(node, *RECURRENT):
                recurrence = self._operand(node, number, 2, slots)
                for part, axes in recurrent_parts(weight, recurrence):
                    yield self._term(round(part * count), axes)
                continue
            yield self._term(count, axes)

    def _of_conv(
        self, node: ir.Node, count: int, output: list[Labels], kernel: list[Labels]
    ) -> _Term:
        term = self._term(count, [*output, *kernel])
        if self._pace is None or not kernel or len(output) != MAPS:
            return term
        groups = node.attributes.get_int("group", 1)
        width = len(output[1]) / groups
        if groups > 1 and width == 1:
            return replace(term, slow=self._pace.depthwise)
        whole = self._pace.block * len(self._pace.sets)
        slow = float(conv_time(self._pace, np.array(width))) * whole / width
        axis = self._number(output[1])
        return replace(term, slow=slow, made=None if axis is None else (axis, groups))

    def _in_time(self, term: _Term) -> _Term:
        """`term` as time, for the shares of `_paced`."""
        axes = list(term.axes)
        if term.made is not None:
            axes[axes.index(term.made[0])] = len(self.full) + 1 + self._made[term.made]
        return _Term(round(term.amount * term.slow), tuple(axes))

    def _paced(self, lengths: Array) -> Array:
        """The share of each axis that is left, 1, and the share of the time for each of `_made`."""
        assert self._pace is not None
        axes, groups = np.array(list(self._made), dtype=np.int64).reshape(-1, 2).T
        now, whole = (conv_time(self._pace, each[axes] / groups) for each in (lengths, self.full))
        return np.concatenate([lengths / self.full, [1.0], now / whole])

    def _operand(
        self, node: ir.Node, number: int, index: int, slots: Mapping[tuple[int, int], Slot]
    ) -> list[Labels]:
        """The labels of input `index` of `node`."""
        if (number, index) in slots:
            return slots[number, index].labels
        value = node.inputs[index]
        return self._found.labels.get(str(value.name), []) if value is not None else []

    def _of_constants(self, model: ir.Model, *, elements: bool) -> Iterator[_Term]:
        nodes = list(model.graph)
        by_value: dict[str, list[Slot]] = {}
        for slot in self._found.slots:
            by_value.setdefault(slot.name, []).append(slot)
        for name, slots in by_value.items():
            number, index = slots[0].uses[0]
            value = nodes[number].inputs[index]
            assert value is not None
            readers = [(nodes[n], i) for slot in slots for n, i in slot.uses]
            if elements and all(
                i > 0 and is_standard(node, "QuantizeLinear", "DequantizeLinear")
                for node, i in readers
            ):
                continue  # scales and zero points are not parameters
            size = math.prod(len(labels) for labels in slots[0].labels)
            unit = 1.0 if elements else self._found.facts.types[name].itemsize
            users = len(value.uses()) + value.is_graph_output()
            if len(slots) == 1 and users == len(slots[0].uses):
                yield self._term(round(size * unit), slots[0].labels)
            else:
                self._shared.append((unit, users, slots))

    def _of_shared(self, cut: Cut) -> int:
        """By how much constants with more than one slot grow: each user gets its own part."""
        more = 0.0
        for unit, users, slots in self._shared:
            size = math.prod(len(labels) for labels in slots[0].labels)
            parts: dict[bytes, int] = {}
            moved = 0
            for slot in slots:
                keeps = [cut.keep(labels) for labels in slot.labels]
                if not all(keep.all() for keep in keeps):
                    key = b"|".join(keep.tobytes() for keep in keeps)
                    parts[key] = math.prod(int(np.count_nonzero(keep)) for keep in keeps)
                    moved += len(slot.uses)
            more += unit * (sum(parts.values()) - (size if moved == users else 0))
        return round(more)

    def _term(self, amount: int, axes: list[Labels]) -> _Term:
        """Only axes with free atoms matter; equal ones are one."""
        numbers = map(self._number, axes)
        return _Term(amount, tuple(number for number in numbers if number is not None))

    def _number(self, labels: Labels) -> int | None:
        """Of an axis; None if nothing on it is free."""
        roots = self._found.atoms.roots(labels)
        if not len(self._found.atoms.free(labels)):
            return None
        key = np.ascontiguousarray(roots).tobytes()
        if key not in self._axes:
            self._axes[key] = len(self._labels)
            self._labels.append(roots)
        return self._axes[key]

    def _count_places(self, groups: list[Group]) -> None:
        """How many positions of each axis an atom of a group takes: [axes of the group, atoms]."""
        home: dict[int, tuple[int, int]] = {}
        for number, group in enumerate(groups):
            home.update({a: (number, place) for place, a in enumerate(group.atoms.tolist())})
        rows: list[dict[int, Array]] = [{} for _ in groups]
        for axis, roots in enumerate(self._labels):
            for atom, count in zip(*np.unique(roots, return_counts=True), strict=True):
                if atom in home:
                    number, place = home[atom]
                    row = rows[number].setdefault(axis, np.zeros(len(groups[number].atoms)))
                    row[place] = count
        self._places = [
            (list(row), np.stack(list(row.values())) if row else np.zeros((0, len(group.atoms))))
            for row, group in zip(rows, groups, strict=True)
        ]

    def _index(self, terms: list[_Term]) -> tuple[Array, Array]:
        """Amounts and axes of terms, as arrays for `_total`."""
        most = max((len(term.axes) for term in terms), default=0)
        index = np.full((len(terms), most), len(self._labels))
        for row, term in zip(index, terms, strict=True):
            row[: len(term.axes)] = term.axes
        return np.array([term.amount for term in terms], dtype=np.float64), index


def _touching(terms: list[_Term], sets: list[list[int]]) -> list[list[_Term]]:
    """For each set of axes the terms that have one of them, in order."""
    having: dict[int, list[int]] = {}
    for number, term in enumerate(terms):
        for axis in term.axes:
            having.setdefault(axis, []).append(number)
    numbers = [sorted({n for axis in axes for n in having.get(axis, [])}) for axes in sets]
    return [[terms[number] for number in touching] for touching in numbers]


def _total(amounts: Array, index: Array, shares: Array) -> float:
    """The sum of the amounts, each times the shares of its axes, in whole numbers."""
    left = np.append(shares, 1.0)[index].prod(axis=1)
    return float(np.rint(amounts * left).sum())
