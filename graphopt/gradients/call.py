"""A node as the rules of gradients see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Call:
    """A node, the values that it read and gave, and the gradient at its outputs.

    Attributes:
        inputs, outputs: None where there is none. Floating-point values are float32 or float64.
        gradients: at each output; None where it is zero.
    """

    node: ir.Node
    opset: int
    inputs: Sequence[Array | None]
    outputs: Sequence[Array | None]
    gradients: Sequence[Array | None]

    def input(self, index: int) -> Array:
        value = self.inputs[index]
        assert value is not None
        return value

    def has(self, index: int) -> bool:
        """Whether there is an input `index`."""
        return index < len(self.inputs) and self.inputs[index] is not None

    @property
    def x(self) -> Array:
        return self.input(0)

    @property
    def y(self) -> Array:
        value = self.outputs[0]
        assert value is not None
        return value

    @property
    def dy(self) -> Array:
        """The gradient at the first output."""
        value = self.gradients[0]
        assert value is not None
        return value

    def number(self, name: str, default: float) -> float:
        return self.node.attributes.get_float(name, default)

    def flag(self, name: str) -> bool:
        return self.node.attributes.get_int(name, 0) != 0

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        rank = self.x.ndim if rank is None else rank
        return self.node.attributes.get_int("axis", default) % max(rank, 1)

    def ints(self, name: str, index: int) -> list[int] | None:
        """An attribute, or, as in newer opsets, the input `index`; None if there is neither."""
        if self.has(index):
            return [int(number) for number in self.input(index).reshape(-1)]
        given = self.node.attributes.get_ints(name, None)
        return None if given is None else list(given)


Rule: TypeAlias = "Callable[[Call, int], Array]"
"""The gradient at an input, in its shape, from the gradient at the outputs."""


def fold(gradient: Array, shape: Sequence[int]) -> Array:
    """Sums `gradient` over the axes along which an operand of `shape` was broadcast."""
    extra = gradient.ndim - len(shape)
    summed = gradient.sum(axis=tuple(range(extra))) if extra else gradient
    stretched = tuple(
        axis for axis, size in enumerate(shape) if size == 1 and summed.shape[axis] != 1
    )
    return np.asarray(summed.sum(axis=stretched, keepdims=True) if stretched else summed)
