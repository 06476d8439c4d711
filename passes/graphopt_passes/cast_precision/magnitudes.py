"""How large values are: measured, or as far as constants out of range tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, is_standard
from graphopt_passes.cast_precision.constants import Constants
from graphopt_passes.cast_precision.low import Loss, LowType
from graphopt_passes.cast_precision.signature import Signatures
from graphopt_passes.cast_precision.tables import (
    ADDITIVE,
    BOUNDED,
    PRODUCTS,
    UNBOUNDED,
    WEIGHTED,
)

_INTEGERS = 128.0
"""What a DequantizeLinear multiplies its scale with, at most."""


def _finite(magnitude: float) -> float:
    """`magnitude`, or that of ordinary values where it is infinite or not known."""
    return magnitude if math.isfinite(magnitude) else 1.0


class Magnitudes:
    """Which values the low type cannot hold.

    A value that was not measured counts as ordinary, unless a constant makes it otherwise: a
    weight of 1e5, a mask of -1e9.
    """

    def __init__(
        self,
        signatures: Signatures,
        constants: Constants,
        measured: Mapping[ir.Value, Loss],
        low: LowType,
        headroom: float,
    ) -> None:
        self._constants = constants
        self._measured = measured
        self._low = low
        self._largest = low.largest / headroom
        self._least = low.least_normal / 8
        self._estimates: dict[ir.Value, float] = {}
        for node in signatures.nodes:
            estimate = self._estimate(node)
            if estimate != 1.0:
                self._estimates.update(dict.fromkeys(node.outputs, estimate))

    def loss(self, value: ir.Value | None) -> Loss | None:
        """What was measured of `value`."""
        return None if value is None else self._measured.get(value)

    def fits(self, number: float) -> bool:
        return number <= self._largest

    def is_large(self, value: ir.Value, *, upwards: bool = False) -> bool:
        """Whether `value` may overflow; with `upwards`, only towards positive numbers."""
        loss = self._measured.get(value)
        if loss is not None:
            return not self.fits(loss.high if upwards else loss.peak)
        return not upwards and not self.fits(self._estimates.get(value, 1.0))

    def is_small(self, value: ir.Value) -> bool:
        """Whether all of `value` is so small that it loses its precision."""
        loss = self._measured.get(value)
        if loss is not None:
            return loss.signal > 0 and loss.sqnr_db < self._low.least_sqnr
        return 0 < self._estimates.get(value, 1.0) < self._least

    def _estimate(self, node: ir.Node) -> float:
        """Of the results of `node`, if they were not measured: infinite if nothing bounds them."""
        if is_standard(node, "Constant", *BOUNDED) or not node.outputs:
            return 1.0
        if is_standard(node, "ConstantOfShape"):
            fill = node.attributes.get("value")
            if fill is None or fill.is_ref():
                return 1.0
            return self._unusual(abs(float(fill.as_tensor().numpy().reshape(-1)[0])))
        if is_standard(node, *UNBOUNDED):
            return self._power(node) if node.op_type == "Pow" else math.inf
        if is_standard(node, "Sqrt"):
            return _finite(math.sqrt(self._of(node, 0)))
        if is_standard(node, "Div", "Reciprocal"):
            one, other = (
                (self._of(node, 0), self._of(node, 1))
                if len(node.inputs) > 1
                else (
                    1.0,
                    self._of(node, 0),
                )
            )
            return one if math.isfinite(other) and not math.isfinite(one) else _finite(one / other)
        if is_standard(node, "DequantizeLinear"):
            loss = self._constants.loss(node.inputs[1])
            return 1.0 if loss is None else self._unusual(loss.peak * _INTEGERS)
        if is_standard(node, *PRODUCTS):
            return self._product(node)
        varying = [
            factor
            for index, value in enumerate(node.inputs)
            if (factor := self._of(node, index)) != 1.0
            or (value is not None and constant_tensor(value) is None)
        ]
        return max(varying, default=1.0)

    def _power(self, node: ir.Node) -> float:
        exponent = constant_array(node.inputs[1])
        if exponent is None or exponent.size != 1:
            return math.inf
        power, base = float(exponent.reshape(-1)[0]), self._of(node, 0)
        if power <= 1:
            return 1.0 if base == 1.0 else _finite(base**power)
        return math.inf

    def _product(self, node: ir.Node) -> float:
        added = ADDITIVE.get(node.op_type, ())
        read = [i for i in range(len(node.inputs)) if i not in added]
        if all(self._of(node, index) == 1.0 for index in read):
            return 1.0
        losses = [self._constants.loss(node.inputs[index]) for index in read]
        product = math.prod(
            self._of(node, index) if loss is None else loss.peak
            for index, loss in zip(read, losses, strict=True)
        )
        is_weighted = is_standard(node, *WEIGHTED)
        return _finite(product) if is_weighted else product

    def _of(self, node: ir.Node, index: int) -> float:
        """The magnitude of an input; 1 for whatever is ordinary."""
        value = node.inputs[index]
        if value is None:
            return 1.0
        loss = self._constants.loss(value)
        if loss is None:
            return self._estimates.get(value, 1.0)
        if not loss.peak or self._constants.is_bound(node, index):
            return 1.0
        return self._unusual(loss.peak)

    def _unusual(self, magnitude: float) -> float:
        return 1.0 if self._least <= magnitude <= self._largest or not magnitude else magnitude
