"""Scales of least squared error for a constant tensor: what clipping a little gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from graphopt.quantization.arithmetic import fake_quantize, parameter_shape
from graphopt.quantization.formats import Format
from graphopt.quantization.scales import affine_parameters, ranges, stored_scale, symmetric_scale

Array = np.ndarray[Any, Any]

FACTORS = np.linspace(1.0, 0.3, 29)
"""What parts of the whole range are tried: the first keeps all of it."""
REFITS = 4
"""How often the best of them is refitted by least squares."""
CHUNK = 1 << 16
"""How many elements are worked on at a time: they stay in the processor's cache."""


def mse_parameters(
    x: Array,
    format: Format,
    *,
    axis: int | None = None,
    block_size: int | None = None,
    symmetric: bool = True,
    limits: tuple[int, int] | None = None,
    importance: Array | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Array]:
    """The scale and zero point of least squared error, for each channel or block of its own.

    A grid of clipped ranges (as Choukroun et al., "Low-bit Quantization of Neural Networks for
    Efficient Inference", 2019) gives a start. From there scale and integers take turns: for given
    integers q the best scale is sum(h x q) / sum(h q^2), for a given scale the best integers are
    the nearest; neither step adds error. The error is that of the scale as it is stored, and never
    above that of keeping the whole range.

    Args:
        x: the tensor: float32, float16 or bfloat16.
        axis: see `graphopt.quantization.arithmetic`; the same for `block_size`.
        symmetric: whether the zero point is 0.
        limits: by default `format.symmetric_limits`, or `format.limits` if not symmetric.
        importance: the weight h of each squared error, >= 0, of a shape that broadcasts to that of
            `x`: such as the mean squares of the inputs that a weight is multiplied with.
        dtype: that of the scale; by default that of `x`.

    Returns:
        The scale, and the zero point in `format.dtype`.

    Raises:
        ValueError: if `x` holds a NaN or an infinite value.
    """
    dtype = x.dtype if dtype is None else np.dtype(dtype)
    if limits is None:
        limits = format.symmetric_limits if symmetric else format.limits
    low, high = ranges(x, axis, block_size)
    search = _Search(format, symmetric, limits, dtype)
    scale, zero = (p.reshape(-1) for p in search.parameters(low, high))
    rows = _rows(x, axis, block_size)
    weights = None
    if importance is not None:
        weights = _rows(np.broadcast_to(importance, x.shape), axis, block_size)
    # The rows of blocks come in the order of the scales.
    low, high = low.reshape(-1), high.reshape(-1)
    for part in _chunks(*rows.shape):
        chosen = None if weights is None else weights[part].astype(np.float32)
        scale[part], zero[part] = search.best(
            rows[part].astype(np.float32), low[part], high[part], chosen
        )
    shape = parameter_shape(x.shape, axis, block_size)
    return scale.reshape(shape), zero.reshape(shape)


@dataclass(frozen=True)
class _Search:
    format: Format
    symmetric: bool
    limits: tuple[int, int]
    dtype: np.dtype[Any]

    def parameters(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Scale and zero point that cover the ranges."""
        if self.symmetric:
            largest = np.maximum(np.abs(low), np.abs(high))
            scale = symmetric_scale(largest, self.format, self.dtype, self.limits)
            return scale, np.zeros(scale.shape, self.format.dtype)
        return affine_parameters(low, high, self.format, self.dtype)

    def best(
        self, rows: Array, low: Array, high: Array, importance: Array | None
    ) -> tuple[Array, Array]:
        """Scale and zero point of each row ([rows, elements], float32)."""
        best = self.parameters(low, high)
        least = self.error(rows, *best, importance)
        for factor in FACTORS[1:]:
            least = self._keep_better(
                rows, best, least, self.parameters(factor * low, factor * high), importance
            )
        for _ in range(REFITS):
            refitted = self._refit(rows, *best, importance)
            least = self._keep_better(rows, best, least, (refitted, best[1]), importance)
        return best

    def _keep_better(
        self,
        rows: Array,
        best: tuple[Array, Array],
        least: Array,
        trial: tuple[Array, Array],
        importance: Array | None,
    ) -> Array:
        """Takes `trial` into `best` where it has less error; the errors of the result."""
        error = self.error(rows, *trial, importance)
        better = error < least
        for kept, tried in zip(best, trial, strict=True):
            kept[better] = tried[better]
        return np.where(better, error, least)

    def error(self, rows: Array, scale: Array, zero: Array, importance: Array | None) -> Array:
        """The sum of the (weighted) squared errors of each row, float64."""
        off = self._rounded(rows, scale, zero)
        off *= scale.astype(np.float32)[:, None]
        off -= rows
        return _dot(off, off, importance)

    def _refit(self, rows: Array, scale: Array, zero: Array, importance: Array | None) -> Array:
        """The best scales for the integers that these scales give."""
        steps = self._rounded(rows, scale, zero)
        squares = _dot(steps, steps, importance)
        fitted = _dot(rows, steps, importance) / np.where(squares > 0, squares, 1)
        return np.where(fitted > 0, stored_scale(np.maximum(fitted, 0), self.dtype), scale)

    def _rounded(self, rows: Array, scale: Array, zero: Array) -> Array:
        """round(rows / scale), within the limits around the zero point: q - zero, float32."""
        with np.errstate(over="ignore", under="ignore"):
            steps = np.divide(rows, scale.astype(np.float32)[:, None])
        if self.format.is_float:
            one = np.ones((), np.float32)
            return fake_quantize(steps, one, None, self.format, limits=self.limits)
        np.rint(steps, out=steps)
        offset = zero.astype(np.float32)[:, None]
        least, greatest = self.limits
        np.clip(steps, np.float32(least) - offset, np.float32(greatest) - offset, out=steps)
        return steps


def _dot(one: Array, other: Array, importance: Array | None) -> Array:
    if importance is None:
        return np.asarray(np.einsum("gm,gm->g", one, other, dtype=np.float64))
    return np.asarray(np.einsum("gm,gm,gm->g", one, other, importance, dtype=np.float64))


def _rows(x: Array, axis: int | None, block_size: int | None) -> Array:
    """`x` as [scales, elements under each]; a short last block is filled with zeros."""
    if axis is None:
        return x.reshape(1, -1)
    if block_size is None:
        return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    axis %= x.ndim
    blocks = -(-x.shape[axis] // block_size)
    missing = blocks * block_size - x.shape[axis]
    if missing:
        x = np.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    split = x.reshape(*x.shape[:axis], blocks, block_size, *x.shape[axis + 1 :])
    return np.moveaxis(split, axis + 1, -1).reshape(-1, block_size)


def _chunks(rows: int, elements: int) -> Iterator[slice]:
    size = max(1, CHUNK // max(elements, 1))
    for start in range(0, rows, size):
        yield slice(start, start + size)
