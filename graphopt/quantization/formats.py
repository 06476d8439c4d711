"""The number formats that QuantizeLinear makes and DequantizeLinear reads: data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError, did_you_mean

PER_AXIS_OPSET = 13
"""The first opset whose QuantizeLinear and DequantizeLinear have an `axis`."""
BLOCKED_OPSET = 21
"""The first one in which they have a `block_size`."""

_FLOAT_OPSETS: Mapping[ir.DataType, int] = MappingProxyType(
    {ir.DataType.FLOAT: 10, ir.DataType.FLOAT16: 19, ir.DataType.BFLOAT16: 19}
)


@dataclass(frozen=True)
class Format:
    """A low-precision number format.

    Attributes:
        name: what the user writes, such as "int8".
        onnx_type: its type in ONNX.
        least: the least value; of fp8, the least finite one.
        greatest: the greatest value.
        opset: the first opset in which QuantizeLinear and DequantizeLinear take it.
    """

    name: str
    onnx_type: ir.DataType
    least: int
    greatest: int
    opset: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its numpy dtype, of numpy or ml_dtypes; 4-bit integers take a byte each in memory."""
        return self.onnx_type.numpy()

    @property
    def bits(self) -> int:
        """The bits of an element as ONNX stores it."""
        return int(self.onnx_type.bitwidth)

    @property
    def is_float(self) -> bool:
        """Whether the steps grow with the magnitude, as in fp8; the zero point is then 0."""
        return self.onnx_type.is_floating_point()

    @property
    def is_signed(self) -> bool:
        return self.least < 0

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest value."""
        return self.least, self.greatest

    @property
    def symmetric_limits(self) -> tuple[int, int]:
        """The limits without the integer that has no negative, such as (-127, 127).

        Weights keep to them: a sum of products of two int8 -128 is what SIMD kernels overflow on,
        and no float weight needs the least integer when the scale maps the largest magnitude.

        Raises:
            ValueError: if the format is unsigned.
        """
        if not self.is_signed:
            raise ValueError(f"{self.name} has no negative values: no symmetric limits")
        return -self.greatest, self.greatest

    def opset_for(self, scale: ir.DataType, *, axis: bool = False, blocks: bool = False) -> int:
        """The first opset in which both operators take the format with this kind of scale.

        Args:
            scale: the type of the scale: FLOAT, FLOAT16 or BFLOAT16.
            axis: whether there is one scale for each index of an axis.
            blocks: whether there is one for each block along an axis.

        Raises:
            ValueError: if the scale cannot be of that type.
        """
        if scale not in _FLOAT_OPSETS:
            raise ValueError(f"a scale cannot be {scale.name.lower()}")
        return max(
            self.opset,
            _FLOAT_OPSETS[scale],
            PER_AXIS_OPSET if axis else 0,
            BLOCKED_OPSET if blocks else 0,
        )


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format.name: format
        for format in (
            Format("int8", ir.DataType.INT8, -128, 127, 10),
            Format("uint8", ir.DataType.UINT8, 0, 255, 10),
            Format("int16", ir.DataType.INT16, -32768, 32767, 21),
            Format("uint16", ir.DataType.UINT16, 0, 65535, 21),
            Format("int4", ir.DataType.INT4, -8, 7, 21),
            Format("uint4", ir.DataType.UINT4, 0, 15, 21),
            Format("fp8", ir.DataType.FLOAT8E4M3FN, -448, 448, 19),
        )
    }
)
"""By name. fp8 is E4M3 with finite numbers and NaN only (Micikevicius et al., 2022)."""


def get_format(name: str) -> Format:
    """The format called `name`.

    Raises:
        GraphoptError: if there is none; it names the nearest one.
    """
    if name not in FORMATS:
        raise GraphoptError(f"there is no format '{name}'", fix=did_you_mean(name, [*FORMATS]))
    return FORMATS[name]
