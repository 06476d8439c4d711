"""Constants: whether the low type holds them, and what they become in it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt_passes.cast_precision.low import Array, Loss, LowType
from graphopt_passes.cast_precision.tables import ADDITIVE, BOUNDS, COMPARISONS, GUARDED

LARGE_BYTES = 1 << 16
"""From here on a low constant is made when it is asked for, and not kept."""


class Constants:
    """The constants of a model under a low type."""

    def __init__(self, low: LowType) -> None:
        self._low = low
        self._losses: dict[ir.Value, Loss] = {}

    def loss(self, value: ir.Value | None) -> Loss | None:
        """What rounding the constant `value` costs; None if it is none."""
        tensor = constant_tensor(value)
        if tensor is None or value is None or tensor.dtype != ir.DataType.FLOAT:
            return None
        if value not in self._losses:
            self._losses[value] = self._low.loss(tensor.numpy())
        return self._losses[value]

    def overflows(self, value: ir.Value | None) -> bool:
        loss = self.loss(value)
        return loss is not None and loss.peak > self._low.largest

    def is_bound(self, node: ir.Node, index: int) -> bool:
        """Whether input `index` of `node`, which overflows, then stands for no bound at all."""
        tensor = constant_tensor(node.inputs[index])
        if tensor is None:
            return False
        return any(
            position == index and bool((sign * tensor.numpy() > self._low.largest).all())
            for position, sign in BOUNDS.get(node.op_type, ())
        )

    def problem(self, node: ir.Node, index: int) -> str | None:
        """Why `node` cannot read its constant input `index` in the low type, but for overflow."""
        value = node.inputs[index]
        loss, tensor = self.loss(value), constant_tensor(value)
        if value is None or loss is None or tensor is None or loss.noise == 0.0:
            return None
        array = tensor.numpy()
        if node.op_type in COMPARISONS:
            return f"it compares with the constant '{value.name}', which {self._low.name} rounds"
        if index in GUARDED.get(node.op_type, ()) and self._vanishes(array):
            return f"parts of its constant '{value.name}' become 0"
        if index in ADDITIVE.get(node.op_type, ()):
            return None
        if loss.sqnr_db < self._low.least_sqnr:
            return f"its constant '{value.name}' is too small: up to {loss.peak:.2g}"
        return None

    def _vanishes(self, array: Array) -> bool:
        return bool(((array != 0) & (self._low.round(array) == 0)).any())


def low_tensor(
    tensor: ir.TensorProtocol, low: LowType, name: str, *, mask: bool, simulated: bool
) -> ir.TensorProtocol:
    """`tensor`, of fp32, in the low type.

    Args:
        mask: as a mask: what is below the type's range is `LowType.mask`.
        simulated: in fp32, with the values of the low type.
    """

    def make() -> ir.TensorProtocol:
        array = tensor.numpy()
        if mask:
            array = as_mask(array, low)
        array = np.where(np.isfinite(array), np.clip(array, -low.largest, low.largest), array)
        rounded = low.round(array.astype(np.float32, copy=False))
        return ir.Tensor(rounded.astype(np.float32) if simulated else rounded, name=name)

    if tensor.nbytes < LARGE_BYTES:
        return make()
    dtype = ir.DataType.FLOAT if simulated else low.dtype
    return ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)


def as_mask(array: Array, low: LowType) -> Array:
    """`array` with what is below the type's range, but not infinite, raised to `LowType.mask`."""
    below = np.isfinite(array) & (array < -low.largest)
    return np.where(below, np.float32(low.mask), array)
