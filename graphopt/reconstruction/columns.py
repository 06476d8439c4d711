"""A layer as a linear problem: rows of what it reads, rows of what it gives, and its weights.

X is float64 [groups, rows, inputs] and Y is float64 [groups, rows, outputs], so that without bias
Y = X W for a weight W [groups, inputs, outputs]. Layers without groups have one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Geometry:
    """Where a convolution reads: one entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_before: tuple[int, ...]

    @classmethod
    def of(
        cls, node: ir.Node, kernel: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
    ) -> Geometry:
        """Of a Conv node.

        Args:
            kernel: the spatial shape of its weight.
            inputs, outputs: the spatial shapes of its input and output.
        """
        ones = (1,) * len(kernel)
        strides = tuple(node.attributes.get_ints("strides", ()) or ones)
        dilations = tuple(node.attributes.get_ints("dilations", ()) or ones)
        pads = tuple(node.attributes.get_ints("pads", ()) or (0,) * (2 * len(kernel)))
        auto = node.attributes.get_string("auto_pad", "NOTSET")
        before = pads[: len(kernel)]
        if auto == "VALID":
            before = (0,) * len(kernel)
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            totals = [
                max((out - 1) * stride + (k - 1) * dilation + 1 - n, 0)
                for out, stride, k, dilation, n in zip(
                    outputs, strides, kernel, dilations, inputs, strict=True
                )
            ]
            # With SAME_LOWER the odd one of the padding is in front.
            before = tuple((n + (auto == "SAME_LOWER")) // 2 for n in totals)
        return cls(tuple(kernel), strides, dilations, before)


def conv_rows(
    x: Array, y: Array, geometry: Geometry, groups: int, rows: Array
) -> tuple[Array, Array]:
    """X and Y of a convolution at some of its output positions.

    Args:
        x: [n, channels, *spatial], the input.
        y: [n, outputs, *spatial], the output.
        rows: which positions, as indices into [n, *output spatial] flattened.
    """
    sample, *position = np.unravel_index(rows, (y.shape[0], *y.shape[2:]))
    pixels, given = _pixels(x), _pixels(y)[rows].astype(np.float64)
    patches = np.zeros((len(rows), math.prod(geometry.kernel), x.shape[1]), x.dtype)
    for tap, offset in enumerate(np.ndindex(geometry.kernel)):
        read = [
            place * stride + step * dilation - pad
            for place, stride, step, dilation, pad in zip(
                position,
                geometry.strides,
                offset,
                geometry.dilations,
                geometry.pads_before,
                strict=True,
            )
        ]
        inside = np.ones(len(rows), dtype=bool)
        for at, length in zip(read, x.shape[2:], strict=True):
            inside &= (at >= 0) & (at < length)
        index = (sample[inside], *(at[inside] for at in read))
        patches[inside, tap] = pixels[np.ravel_multi_index(index, (len(x), *x.shape[2:]))]
    columns = np.swapaxes(patches, 1, 2).reshape(len(rows), -1).astype(np.float64)
    return _by_group(columns, groups), _by_group(given, groups)


def _pixels(array: Array) -> Array:
    """[n, channels, *spatial] as [n * positions, channels]: what is read together lies together."""
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def matrix_rows(x: Array, y: Array, rows: Array) -> tuple[Array, Array]:
    """X and Y of a product with a matrix on the right, at some of its rows."""
    flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    return flat_x[rows].astype(np.float64)[None], flat_y[rows].astype(np.float64)[None]


def _by_group(array: Array, groups: int) -> Array:
    """[rows, channels] as [groups, rows, channels of the group]."""
    return np.moveaxis(array.reshape(len(array), groups, -1), 1, 0)


def conv_matrix(weight: Array, groups: int) -> Array:
    """The weight [outputs, channels / groups, *kernel] of a convolution as W."""
    grouped = weight.astype(np.float64).reshape(groups, len(weight) // groups, -1)
    return np.swapaxes(grouped, 1, 2)


def conv_weight(matrix: Array, shape: Sequence[int]) -> Array:
    """`conv_matrix` undone."""
    return np.reshape(np.swapaxes(matrix, 1, 2), shape)
