"""The two low types, and what rounding to them costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]

CHUNK = 1 << 20
"""How many elements are rounded at a time."""


@dataclass(frozen=True)
class LowType:
    """A 16-bit float type.

    Attributes:
        name: what the user writes.
        bits: of precision, the implicit one too.
        largest: the greatest finite number.
        least_normal: the least number of full precision.
        opset: the first opset in which the operators of nets take it.
        goals: the signal-to-noise ratio that outputs should keep, in dB, of a model without and
            with a Softmax.
    """

    name: str
    dtype: ir.DataType
    bits: int
    largest: float
    least_normal: float
    opset: int
    goals: tuple[float, float]

    @property
    def type_str(self) -> str:
        """As schemas write it."""
        return f"tensor({self.dtype.name.lower()})"

    @property
    def exact_integers(self) -> int:
        """Up to this all integers are numbers of the type."""
        return 1 << self.bits

    @property
    def mask(self) -> float:
        """What a large negative number in a mask becomes: two of them still add up."""
        return -self.largest / 2

    @property
    def least_sqnr(self) -> float:
        """A tensor that keeps less, in dB, suffers from more than the type's usual rounding.

        That alone gives 6.02 dB a bit and some 7 dB more.
        """
        return 6.02 * self.bits - 15

    def round(self, array: Array) -> Array:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return array.astype(self.dtype.numpy())

    def loss(self, array: Array) -> Loss:
        """What rounding `array` of floats costs; infinite elements are numbers of the type."""
        low = high = signal = noise = 0.0
        for part in _chunks(array):
            finite = part[np.isfinite(part)]
            if not finite.size:
                continue
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            held = finite[np.abs(finite) <= self.largest].astype(np.float64)
            rounded = self.round(held).astype(np.float64)
            held, rounded = held[np.isfinite(rounded)], rounded[np.isfinite(rounded)]
            signal += float(np.vdot(held, held))
            noise += float(np.vdot(held - rounded, held - rounded))
        return Loss(low, high, signal, noise, array.size)


@dataclass(frozen=True)
class Loss:
    """The finite elements of a tensor, and the error of rounding those within the type's range.

    Attributes:
        low: the least element, at most 0.
        high: the greatest, at least 0.
        signal: the sum of squares.
        noise: the sum of squared errors.
        size: the number of all elements.
    """

    low: float = 0.0
    high: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    size: int = 0

    @property
    def peak(self) -> float:
        return max(self.high, -self.low)

    @property
    def sqnr_db(self) -> float:
        """The signal-to-noise ratio of the rounding; infinite if it changes nothing."""
        if self.noise == 0.0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    def merge(self, other: Loss) -> Loss:
        return Loss(
            min(self.low, other.low),
            max(self.high, other.high),
            self.signal + other.signal,
            self.noise + other.noise,
            self.size + other.size,
        )


def _chunks(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK]


LOW_TYPES = {
    "fp16": LowType("fp16", ir.DataType.FLOAT16, 11, 65504.0, 2.0**-14, 1, (60.0, 50.0)),
    "bf16": LowType(
        "bf16",
        ir.DataType.BFLOAT16,
        8,
        (2 - 2.0**-7) * 2.0**127,
        2.0**-126,
        22,
        (35.0, 30.0),
    ),
}
