"""From labels to groups of channels, and from scores to the channels that go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.pipeline.notes import listed
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.labelling import Balance, Labelling, Slot


@dataclass(frozen=True)
class Group:
    """Channels (free atoms) that occur in the same axes of the same tensors."""

    name: str
    """The layers that make these channels."""
    blocks: tuple[Labels, ...]
    """Its atoms; several blocks, of equal size, must lose the same number each."""
    width: int
    """How many positions of its heaviest weight each atom takes."""

    @property
    def atoms(self) -> Labels:
        return np.concatenate(self.blocks)


@dataclass(frozen=True)
class Cut:
    """Which atoms go: `gone[atom]`, for every atom and not just for representatives."""

    gone: NDArray[np.bool_]

    def keep(self, labels: Labels) -> NDArray[np.bool_]:
        """For each position of an axis, whether it stays."""
        return ~self.gone[labels]

    def count(self, labels: Labels) -> int:
        """How many positions of an axis stay."""
        return len(labels) - int(np.count_nonzero(self.gone[labels]))

    def touches(self, labels: Labels) -> bool:
        return bool(self.gone[labels].any())


def spread(found: Labelling, gone: NDArray[np.bool_]) -> Cut:
    """The cut in which every atom goes whose representative has gone."""
    return Cut(gone[found.atoms.all_roots()])


Axis: TypeAlias = "tuple[Slot | None, int, Labels]"
"""An axis of a tensor: the slot if it is a constant, the axis, its labels."""


def find_groups(found: Labelling) -> list[Group]:
    """The groups that could be cut, in the order of their first atom.

    Where the blocks of a grouped convolution cannot be cut evenly, they are tied to one another,
    position by position: `found` changes.
    """
    layers = _layers(found)
    while True:
        groups = []
        axes = list(_axes(found))
        balances = _balances(found)
        for atoms, places in _partition(found, axes):
            if all(axes[place][0] is not None for place in places):
                continue  # no node reads these positions of a constant
            blocks, uneven = _blocks(found, atoms, balances)
            if uneven:
                for balance in uneven:
                    for block in balance.blocks[1:]:
                        found.atoms.tie(balance.blocks[0], block)
                break
            taken = [axes[place] for place in places]
            groups.append(Group(_name(found, layers, taken), blocks, _width(found, atoms, taken)))
        else:
            return groups


def _axes(found: Labelling) -> Iterator[Axis]:
    for slot in found.slots:
        for axis, labels in enumerate(slot.labels):
            yield slot, axis, labels
    for value in found.labels.values():
        for axis, labels in enumerate(value):
            yield None, axis, labels


def _layers(found: Labelling) -> dict[tuple[int, int], list[int]]:
    """The places of the layers that make each axis of a constant, by the slot's id and the axis."""
    layers: dict[tuple[int, int], list[int]] = {}
    for place, layer in enumerate(found.layers):
        layers.setdefault((id(layer.slot), layer.out_axis), []).append(place)
    return layers


def _balances(found: Labelling) -> dict[int, list[int]]:
    """The places of the balances that each atom occurs in."""
    balances: dict[int, list[int]] = {}
    for place, balance in enumerate(found.balances):
        for root in np.unique(found.atoms.roots(np.concatenate(balance.blocks))).tolist():
            balances.setdefault(root, []).append(place)
    return balances


def _partition(found: Labelling, axes: list[Axis]) -> list[tuple[Labels, tuple[int, ...]]]:
    """The free atoms, parted by the set of axes that they occur in."""
    members: dict[int, list[int]] = {}
    for number, (_, _, labels) in enumerate(axes):
        for root in found.atoms.free(labels).tolist():
            members.setdefault(root, []).append(number)
    parts: dict[tuple[int, ...], list[int]] = {}
    for root, places in sorted(members.items()):
        parts.setdefault(tuple(places), []).append(root)
    return [(np.array(part, dtype=np.int64), places) for places, part in parts.items()]


def _blocks(
    found: Labelling, atoms: Labels, balances: dict[int, list[int]]
) -> tuple[tuple[Labels, ...], list[Balance]]:
    """The blocks that `atoms` fall into, or the constraints that they cannot keep."""
    homes: NDArray[np.int64] | None = None
    touching = []
    fits = True
    for place in sorted({place for atom in atoms.tolist() for place in balances.get(atom, [])}):
        balance = found.balances[place]
        counts = np.stack(
            [_occurrences(found.atoms.roots(block), atoms) for block in balance.blocks], axis=1
        )
        if (counts == counts[:, :1]).all():
            continue
        touching.append(balance)
        home = counts.argmax(axis=1)
        sizes = np.bincount(home, minlength=len(balance.blocks))
        single = (np.count_nonzero(counts, axis=1) == 1).all() and len(set(counts.max(1))) == 1
        fits &= single and len(set(sizes)) == 1 and (homes is None or (homes == home).all())
        homes = home
    if not touching or homes is None:
        return (atoms,), []
    if not fits:
        return (), touching
    return tuple(atoms[homes == block] for block in range(homes.max() + 1)), []


def _occurrences(roots: Labels, atoms: Labels) -> NDArray[np.int64]:
    """How often each of `atoms` (ascending) occurs in `roots`."""
    unique, counts = np.unique(roots, return_counts=True)
    place = np.searchsorted(unique, atoms).clip(max=max(len(unique) - 1, 0))
    return np.where(unique[place] == atoms, counts[place], 0)


def _name(found: Labelling, layers: dict[tuple[int, int], list[int]], axes: list[Axis]) -> str:
    taken = {(id(slot), axis) for slot, axis, _ in axes if slot is not None}
    places = sorted({place for each in taken for place in layers.get(each, [])})
    makers = [found.layers[place].name for place in places] or [
        slot.name for slot, _, _ in axes if slot is not None
    ]
    if not makers:
        makers = [
            f"tensor '{name}'"
            for name, value in found.labels.items()
            if any(labels is axis for axis in value for _, _, labels in axes)
        ]
    names = list(dict.fromkeys(makers))
    return listed(names)


def _width(found: Labelling, atoms: Labels, axes: list[Axis]) -> int:
    """Positions per atom on the longest axis of the largest weight; 1 if they differ."""
    best = (0, 0, 1)
    for slot, _, labels in axes:
        if slot is not None:
            size = math.prod(len(axis) for axis in slot.labels)
            counts = _occurrences(found.atoms.roots(labels), atoms)
            width = int(counts[0]) if (counts == counts[0]).all() else 1
            best = max(best, (size, len(labels), width))
    return best[2]


def is_scored(group: Group, scores: dict[int, float]) -> bool:
    """Whether each of its atoms has a score that is a finite number."""
    return all(math.isfinite(scores.get(atom, math.nan)) for atom in group.atoms.tolist())


def step_of(group: Group, align: int) -> int:
    """How many atoms of each block make a multiple of `align` positions.

    A group of exactly that many stays whole, for fewer would take a kernel as long. One of fewer
    has no multiple to keep, and is not frozen by it: its counts are multiples of the half, the
    quarter and so on, the first that leaves it something to lose.
    """
    step, size = align // math.gcd(align, group.width * len(group.blocks)), len(group.blocks[0])
    if step > size:
        while step > 1 and step >= size:
            step //= 2
    return step


def choose(
    found: Labelling,
    groups: list[Group],
    scores: dict[int, float],
    ratio: float,
    align: int,
    wholes: Sequence[int] = (),
) -> Cut:
    """Cuts the share `ratio` of each group: the atoms of the lowest score, ties by atom.

    Never more than that share: what is left is rounded up, also to positions in multiples of
    `align`, and is one atom at the least. A group of which an atom has no score stays whole.

    Args:
        wholes: for each group how many atoms of a block the share is of, if some are gone already.
    """
    gone = np.zeros(len(found.atoms), dtype=bool)
    for number, group in enumerate(groups):
        if not is_scored(group, scores):
            continue
        size = len(group.blocks[0])
        whole = wholes[number] if wholes else size
        kept = whole - math.floor(ratio * whole + 1e-9)
        step = step_of(group, align)
        kept = min(size, max(1, -(-kept // step) * step))
        for block in group.blocks:
            order = sorted(block.tolist(), key=lambda atom: (scores[atom], atom))
            gone[order[: size - kept]] = True
    return spread(found, gone)
