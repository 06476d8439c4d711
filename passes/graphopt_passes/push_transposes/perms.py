"""Permutations, as Transpose has them: axis i of its output is axis perm[i] of its input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from graphopt.ir.facts import Dims

Perm: TypeAlias = "tuple[int, ...]"


def is_identity(perm: Sequence[int]) -> bool:
    return all(axis == place for place, axis in enumerate(perm))


def inverse(perm: Sequence[int]) -> Perm:
    places = [0] * len(perm)
    for place, axis in enumerate(perm):
        places[axis] = place
    return tuple(places)


def composed(first: Sequence[int], second: Sequence[int]) -> Perm:
    """The perm of a Transpose that does `first`, then `second`."""
    return tuple(first[axis] for axis in second)


def without(perm: Perm, places: Iterable[int]) -> Perm:
    """What is left of `perm` when the axes at `places` of the output have gone."""
    gone = set(places)
    left = [axis for place, axis in enumerate(perm) if place not in gone]
    order = sorted(left)
    return tuple(order.index(axis) for axis in left)


def with_ones(perm: Perm, places: Sequence[int]) -> Perm:
    """`perm` when new axes are put in at `places` of both the output and the input."""
    rank = len(perm) + len(places)
    old = [place for place in range(rank) if place not in places]
    rest = iter(perm)
    return tuple(place if place in places else old[next(rest)] for place in range(rank))


def moves_only_ones(perm: Perm, dims: Dims | None) -> bool:
    """Whether a Transpose to `dims` keeps the order of the elements."""
    if dims is None or len(dims) != len(perm):
        return False
    moved = [axis for place, axis in enumerate(perm) if dims[place] != 1]
    return moved == sorted(moved)
