"""How large values are: measured, or as far as constants out of range tell it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, is_standard
from graphopt_passes.cast_precision.constants import Constants
from graphopt_passes.cast_precision.low import Loss, LowType
from graphopt_passes.cast_precision.signature import Signatures
from graphopt_passes.cast_precision.tables import ADDITIVE, BOUNDED, PRODUCTS

_INTEGERS = 128.0
"""What a DequantizeLinear multiplies its scale with, at most."""
_MOST = 1e300


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
        if is_standard(node, "Constant", *BOUNDED):
            return 1.0
        if is_standard(node, "ConstantOfShape"):
            fill = node.attributes.get("value")
            if fill is None or fill.is_ref():
                return 1.0
            return self._unusual(abs(float(fill.as_tensor().numpy().reshape(-1)[0])))
        if is_standard(node, "Pow") and len(node.inputs) == 2:
            exponent = constant_array(node.inputs[1])
            base = self._of(node, 0)
            if exponent is None or exponent.size != 1 or base == 1.0:
                return 1.0
            return float(min(base ** min(float(exponent.reshape(-1)[0]), 8.0), _MOST))
        if is_standard(node, "Div"):
            return self._of(node, 0) / max(self._of(node, 1), 1 / _MOST)
        if is_standard(node, "Reciprocal"):
            return 1 / max(self._of(node, 0), 1 / _MOST)
        if is_standard(node, "DequantizeLinear"):
            loss = self._constants.loss(node.inputs[1])
            return 1.0 if loss is None else self._unusual(loss.peak * _INTEGERS)
        added = ADDITIVE.get(node.op_type, ()) if is_standard(node, *PRODUCTS) else ()
        factors = [self._of(node, i) for i in range(len(node.inputs)) if i not in added]
        if is_standard(node, *PRODUCTS):
            product = 1.0
            for factor in factors:
                product = min(product * factor, _MOST)
            return product
        varying = [
            factor
            for factor, value in zip(factors, node.inputs, strict=False)
            if factor != 1.0 or (value is not None and constant_tensor(value) is None)
        ]
        return max(varying, default=1.0)

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
