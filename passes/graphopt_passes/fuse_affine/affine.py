"""What a node does that scales and shifts, per channel or with constants of any shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting import DeclinedError, Rewriter

ARITHMETIC = ("Mul", "Add", "Sub", "Div", "Neg")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

_ONE, _ZERO, _MINUS = np.array(1.0), np.array(0.0), np.array(-1.0)


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift along the channels; both are float64, [channels] or [1]."""

    scale: np.ndarray
    shift: np.ndarray

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise DeclinedError("its parameters are not finite")

    @property
    def scales(self) -> bool:
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        return bool(self.shift.any())


@dataclass(frozen=True)
class Step:
    """A node y = scale * x + shift, element by element, with one constant (Neg: none)."""

    node: ir.Node
    data: int
    """The index of the input x."""
    tensor: ir.TensorProtocol | None

    @property
    def value(self) -> ir.Value | None:
        """x."""
        return self.node.inputs[self.data]

    @property
    def constant(self) -> ir.Value | None:
        return None if self.tensor is None else self.node.inputs[1 - self.data]

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.tensor is None else tuple(self.tensor.shape.numpy())

    @property
    def is_shift(self) -> bool:
        """Whether it adds something to x or to -x."""
        return self.node.op_type in ("Add", "Sub")

    @property
    def is_scale(self) -> bool:
        return not self.is_shift

    def scale(self) -> np.ndarray:
        """float64, of the constant's shape; or one number without axes."""
        op = self.node.op_type
        if op == "Neg" or (op == "Sub" and self.data == 1):
            return _MINUS
        if self.is_shift:
            return _ONE
        with np.errstate(divide="ignore", over="ignore"):
            return self._numbers() if op == "Mul" else np.asarray(1.0 / self._numbers())

    def shift(self) -> np.ndarray:
        """float64, of the constant's shape; or one number without axes."""
        if self.is_scale:
            return _ZERO
        subtracts = self.node.op_type == "Sub" and self.data == 0
        return -self._numbers() if subtracts else self._numbers()

    def _numbers(self) -> np.ndarray:
        return _ONE if self.tensor is None else self.tensor.numpy().astype(np.float64)

    def runs_along(self, axis: int, channels: int, rank: int | None) -> bool:
        """Whether the constant is one number, or one for each of `channels` on `axis`, of x.

        Args:
            axis: counted from the end.
            rank: that of x; then the constant does not raise it.
        """
        shape = self.shape
        if rank is None or len(shape) > rank:
            return shape == ()
        others = [dim for place, dim in enumerate(shape) if place - len(shape) != axis]
        along = shape[axis] if len(shape) >= -axis else 1
        return along in (1, channels) and all(dim == 1 for dim in others)

    def affine(self) -> Affine:
        """What it does to each channel, if its constant runs along the channels."""
        return Affine(self.scale().reshape(-1), self.shift().reshape(-1))


def require_arithmetic(at: Rewriter) -> None:
    """Declines where Add, Mul or Sub cannot be written: they broadcast by themselves from opset 7.

    A model may also define them anew.
    """
    for op_type in ("Add", "Mul", "Sub"):
        if not at.has_operator(op_type, 7):
            raise DeclinedError(f"the model cannot have an {op_type} in its place")


def step_of(node: ir.Node, at: Rewriter) -> Step | None:
    """`node` as a step: floating-point arithmetic with one constant."""
    if at.opset < 7 or node.op_type not in ARITHMETIC:  # before, it broadcasts on request
        return None
    if node.op_type == "Neg":
        return Step(node, 0, None) if at.dtype(node.inputs[0]) in FLOATS else None
    if len(node.inputs) != 2:
        return None
    tensors = [constant_tensor(value) for value in node.inputs]
    data = 0 if tensors[0] is None else 1
    tensor = tensors[1 - data]
    if tensor is None or tensors[data] is not None or tensor.dtype not in FLOATS:
        return None
    return None if node.op_type == "Div" and data == 1 else Step(node, data, tensor)
