"""The two low types, and what rounding to them costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]

CHUNK = 1 << 16
"""How many elements are rounded at a time: all that is made of them stays in the cache."""


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
            least, greatest = float(part.min()), float(part.max())
            if not math.isfinite(greatest - least):
                part = part[np.isfinite(part)]
                if not part.size:
                    continue
                least, greatest = float(part.min()), float(part.max())
            low, high = min(low, least), max(high, greatest)
            if max(-least, greatest) > self.largest:
                part = part[np.abs(part) <= self.largest]
            held = part.astype(np.float64)
            error = held - self.round(part).astype(np.float64)
            signal += float(np.vdot(held, held))
            noise += float(np.vdot(error, error))
        return Loss(low, high, (signal,), (noise,), array.size)


@dataclass(frozen=True)
class Loss:
    """The finite elements of a tensor, and the error of rounding those within the type's range.

    Attributes:
        low: the least element, at most 0.
        high: the greatest, at least 0.
        squares: the sum of squares of each part of it.
        errors: the sums of squared errors.
        size: the number of all elements.
    """

    low: float = 0.0
    high: float = 0.0
    squares: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    size: int = 0

    @property
    def signal(self) -> float:
        """The sum of squares, exact but for one rounding: parts come in any order."""
        return math.fsum(self.squares)

    @property
    def noise(self) -> float:
        """The sum of squared errors, likewise."""
        return math.fsum(self.errors)

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
            self.squares + other.squares,
            self.errors + other.errors,
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
