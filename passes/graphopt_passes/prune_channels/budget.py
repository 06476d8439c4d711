"""What is left of a model's MACs, parameters or bytes after a cut, told without building it.

The MACs of a layer are a product of lengths of axes, and so are the elements of a constant: each is
a term, its amount in the uncut model times the share of each of its axes that stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Cost, is_standard, measure
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.groups import Cut, Group
from graphopt_passes.prune_channels.labelling import Labelling, Slot

Quantity: TypeAlias = Literal["macs", "params", "bytes"]
Array: TypeAlias = "NDArray[Any]"

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


@dataclass(frozen=True)
class _Term:
    """Something that costs `amount`, and less by what its axes lose."""

    amount: int
    axes: tuple[int, ...]


class Budget:
    """One quantity of `model`, from which `found` was made, as channels of `groups` go.

    Cutting is tried out on `lengths`, the number of positions left on each axis (see `full`).

    MACs are those of `graphopt.ir.measure` on the pruned model. Parameters and bytes are as well,
    but for a few integers: shapes that the nodes of a model share, and must not share any more.
    """

    def __init__(
        self, model: ir.Model, found: Labelling, groups: list[Group], quantity: Quantity
    ) -> None:
        self._found = found
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
        self._touching = [self._index(terms, set(axes)) for axes, _ in self._places]
        self._all = self._index(terms, None)

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

    def part(self, group: int, cut: Cut | None = None) -> int:
        """What the parts of the model that shrink with `group` cost, in all or after `cut`."""
        lengths = self.full if cut is None else self._lengths(cut)
        return int(_total(*self._touching[group], lengths / self.full))

    def _lengths(self, cut: Cut) -> Array:
        return np.array([cut.count(labels) for labels in self._labels], dtype=np.float64)

    def _of_nodes(self, model: ir.Model, macs: list[int]) -> Iterator[_Term]:
        slots = {use: slot for slot in self._found.slots for use in slot.uses}
        for number, (node, count) in enumerate(zip(model.graph, macs, strict=True)):
            if not count:
                continue
            weight = slots[number, 1].labels[1:] if (number, 1) in slots else []
            data = self._operand(node, number, slots)
            output = self._found.labels.get(str(node.outputs[0].name), [])
            axes: list[Labels] = []
            if is_standard(node, "Conv"):
                axes = [*output, *weight]
            elif is_standard(node, "ConvTranspose"):
                axes = [*data, *weight]
            elif is_standard(node, "MatMul"):
                axes = [*output, data[-1]] if data else []
            elif is_standard(node, "Gemm"):
                inner = 0 if node.attributes.get_int("transA", 0) else 1
                axes = [*output, data[inner]] if data else []
            yield self._term(count, axes)

    def _operand(
        self, node: ir.Node, number: int, slots: Mapping[tuple[int, int], Slot]
    ) -> list[Labels]:
        """The labels of the first input of `node`."""
        if (number, 0) in slots:
            return slots[number, 0].labels
        value = node.inputs[0]
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
        numbers = []
        for labels in axes:
            roots = self._found.atoms.roots(labels)
            if len(self._found.atoms.free(labels)):
                key = np.ascontiguousarray(roots).tobytes()
                if key not in self._axes:
                    self._axes[key] = len(self._labels)
                    self._labels.append(roots)
                numbers.append(self._axes[key])
        return _Term(amount, tuple(numbers))

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

    def _index(self, terms: list[_Term], axes: set[int] | None) -> tuple[Array, Array]:
        """Amounts and axes of those terms that have one of `axes`, as arrays for `_total`."""
        taken = [term for term in terms if axes is None or axes & set(term.axes)]
        most = max((len(term.axes) for term in taken), default=0)
        index = np.full((len(taken), most), len(self._labels))
        for row, term in zip(index, taken, strict=True):
            row[: len(term.axes)] = term.axes
        return np.array([term.amount for term in taken], dtype=np.float64), index


def _total(amounts: Array, index: Array, shares: Array) -> float:
    """The sum of the amounts, each times the shares of its axes, in whole numbers."""
    left = np.append(shares, 1.0)[index].prod(axis=1)
    return float(np.rint(amounts * left).sum())
