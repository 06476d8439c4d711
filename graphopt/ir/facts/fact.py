"""What is known of one value, and of one node's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts.dimension import Dim, Dims, Expr

Item: TypeAlias = "Dim | None"
"""A number, an expression of dimensions, or None for anything at all."""

MAX_ITEMS = 64

RANGES = {
    ir.DataType.INT64: (-(2**63), 2**63 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
    ir.DataType.BOOL: (0, 1),
}
"""The types whose elements are followed, with their least and greatest numbers."""


class Fact(NamedTuple):
    """What is certain about a value; None is "not known"."""

    dtype: ir.DataType | None = None
    dims: Dims | None = None
    items: tuple[Item, ...] | None = None
    """The elements of a tensor of one of RANGES, of rank 0 (one item) or 1."""

    @property
    def is_complete(self) -> bool:
        """Whether no further evaluation can tell more."""
        dims = self.static_dims
        if self.dtype is None or dims is None:
            return False
        followed = self.dtype in RANGES and len(dims) <= 1 and math.prod(dims) <= MAX_ITEMS
        return not followed or self.ints() is not None

    @property
    def static_dims(self) -> tuple[int, ...] | None:
        """The dimensions, if all are numbers."""
        if self.dims is None or not all(isinstance(dim, int) for dim in self.dims):
            return None
        return self.dims  # type: ignore[return-value]

    def ints(self) -> list[int] | None:
        """The elements, if all are known numbers."""
        if self.items is None or not all(isinstance(item, int) for item in self.items):
            return None
        return list(self.items)  # type: ignore[arg-type]

    def array(self) -> np.ndarray | None:
        """The tensor, if all of it is known numbers."""
        known = self.ints()
        if known is None or self.dtype is None or self.dims is None:
            return None
        return np.array(known, self.dtype.numpy()).reshape([len(known)] if self.dims else [])


NOTHING = Fact()


def data(dtype: ir.DataType, rank: int, items: Sequence[Item]) -> Fact:
    """The fact of a small integer tensor of rank 0 or 1; without the items if there are many."""
    dims: Dims = (len(items),) if rank else ()
    return Fact(dtype, dims, tuple(items) if len(items) <= MAX_ITEMS else None)


def fit(item: Item, dtype: ir.DataType) -> Item:
    """`item`, unless it is a number that overflows `dtype`."""
    if not isinstance(item, int):
        return item
    low, high = RANGES[dtype]
    return item if low <= item <= high else None


@dataclass
class Operation:
    """A node of the default domain with what is known of its inputs."""

    __slots__ = ("facts", "node", "opset", "unknown")

    node: ir.Node
    opset: int
    facts: Sequence[Fact]
    unknown: Callable[[], Expr]
    """Gives a symbol that stands for no other dimension."""

    def fact(self, index: int) -> Fact:
        return self.facts[index] if index < len(self.facts) else NOTHING

    def dims(self, index: int) -> Dims | None:
        return self.facts[index].dims if index < len(self.facts) else None

    def named(self, items: Sequence[Item]) -> Dims:
        """`items` as dimensions: those that are not known by symbols of their own."""
        return tuple(self.unknown() if item is None else item for item in items)

    def has_input(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def ints(self, index: int, attribute: str, since: int) -> list[int] | None:
        """A list of integers that became input `index` in opset `since`; None if not known.

        Empty if it is left out.
        """
        if self.opset < since:
            return list(self.node.attributes.get_ints(attribute, ()))
        return self.fact(index).ints() if self.has_input(index) else []

    def axes(self, index: int, since: int, rank: int) -> list[int] | None:
        """`ints` of attribute "axes", each from 0 to `rank` - 1; None if one is out of range."""
        axes = self.ints(index, "axes", since)
        if axes is None or not all(-rank <= axis < rank for axis in axes):
            return None
        return [axis % rank for axis in axes]

    def axis(self, default: int, rank: int) -> int | None:
        axis: int = self.node.attributes.get_int("axis", default)
        return axis % rank if -rank <= axis < rank else None
