"""Gradients of convolutions and pools: one window position after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.gradients.call import Array, Call, Rule
from graphopt.reconstruction import Geometry

Slices = tuple[Any, ...]


class _Windows:
    """Windows over the spatial axes of an array [n, channels, *inside], one per *outside."""

    def __init__(
        self, call: Call, kernel: Sequence[int], inside: Sequence[int], outside: Sequence[int]
    ) -> None:
        self._geometry = Geometry.of(call.node, kernel, inside, outside)
        self._inside, self._outside = tuple(inside), tuple(outside)
        geometry = zip(
            self._geometry.pads_before,
            inside,
            outside,
            self._geometry.strides,
            self._geometry.kernel,
            self._geometry.dilations,
            strict=True,
        )
        self._padded = [
            max(pad + n, (out - 1) * stride + (k - 1) * dilation + 1)
            for pad, n, out, stride, k, dilation in geometry
        ]

    def positions(self) -> Iterator[tuple[Slices, Slices]]:
        """Each position in a kernel [..., *kernel], and what it reads of a padded array."""
        for offset in np.ndindex(self._geometry.kernel):
            starts = [step * d for step, d in zip(offset, self._geometry.dilations, strict=True)]
            slices = [
                slice(start, start + max((out - 1) * stride + 1, 0), stride)
                for start, out, stride in zip(
                    starts, self._outside, self._geometry.strides, strict=True
                )
            ]
            yield (..., *offset), (..., *slices)

    def empty(self, leading: Sequence[int], dtype: Any, fill: float = 0.0) -> Array:
        return np.full((*leading, *self._padded), fill, dtype)

    def pad(self, array: Array, fill: float = 0.0) -> Array:
        padded = self.empty(array.shape[: -len(self._inside)], array.dtype, fill)
        padded[self._crop()] = array
        return padded

    def crop(self, padded: Array) -> Array:
        return np.asarray(padded[self._crop()])

    def _crop(self) -> Slices:
        pads = self._geometry.pads_before
        return (..., *(slice(p, p + n) for p, n in zip(pads, self._inside, strict=True)))


def _times(weight: Array, values: Array) -> Array:
    """[groups, a, b] times [n, groups, b, *spatial]."""
    flat = values.reshape(*values.shape[:3], -1)
    product = weight * flat if weight.shape[2] == 1 else weight @ flat
    return product.reshape(*product.shape[:3], *values.shape[3:])


def _pairs(one: Array, other: Array) -> Array:
    """Sums over n and positions: [n, groups, a, *s] and [n, groups, b, *s] -> [groups, a, b]."""
    left = one.reshape(*one.shape[:3], -1)
    right = other.reshape(*other.shape[:3], -1)
    return np.asarray((left @ np.swapaxes(right, 2, 3)).sum(axis=0))


def _parted(array: Array, groups: int) -> Array:
    """[n, channels, *spatial] as [n, groups, channels of the group, *spatial]."""
    return array.reshape(array.shape[0], groups, array.shape[1] // groups, *array.shape[2:])


def _conv(call: Call, index: int) -> Array:
    if index == 2:
        return np.asarray(call.dy.sum(axis=(0, *range(2, call.dy.ndim))))
    x, w, dy = call.x, call.input(1), call.dy
    groups = call.node.attributes.get_int("group", 1)
    windows = _Windows(call, w.shape[2:], x.shape[2:], dy.shape[2:])
    given = _parted(dy, groups)
    weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    if index == 0:
        gradient = windows.empty((len(x), groups, w.shape[1]), dy.dtype)
        for offset, slices in windows.positions():
            turned = np.swapaxes(weight[offset], 1, 2)
            gradient[slices] += _times(turned, given)
        return windows.crop(gradient).reshape(x.shape)
    padded = windows.pad(_parted(x, groups))
    gradient = np.zeros(weight.shape, dy.dtype)
    for offset, slices in windows.positions():
        gradient[offset] = _pairs(given, padded[slices])
    return gradient.reshape(w.shape)


def _conv_transpose(call: Call, index: int) -> Array:
    if index == 2:
        return np.asarray(call.dy.sum(axis=(0, *range(2, call.dy.ndim))))
    x, w, dy = call.x, call.input(1), call.dy
    groups = call.node.attributes.get_int("group", 1)
    windows = _Windows(call, w.shape[2:], dy.shape[2:], x.shape[2:])
    padded, read = windows.pad(_parted(dy, groups)), _parted(x, groups)
    weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    if index == 0:
        steps = (_times(weight[o], padded[slices]) for o, slices in windows.positions())
        return np.asarray(sum(steps)).reshape(x.shape)
    gradient = np.zeros(weight.shape, dy.dtype)
    for offset, slices in windows.positions():
        gradient[offset] = _pairs(read, padded[slices])
    return gradient.reshape(w.shape)


def _pool_windows(call: Call) -> _Windows:
    kernel = call.node.attributes.get_ints("kernel_shape", ())
    return _Windows(call, kernel, call.x.shape[2:], call.y.shape[2:])


def _average_pool(call: Call, index: int) -> Array:
    windows, x = _pool_windows(call), call.x
    inside = windows.pad(np.ones((1, 1, *x.shape[2:]), call.dy.dtype))
    automatic = call.node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    if call.flag("count_include_pad") and automatic:
        inside[...] = 1
    elif call.flag("count_include_pad"):
        # Padding counts; what a last window reaches beyond it (ceil_mode) does not.
        pads = call.node.attributes.get_ints("pads", ()) or [0] * (2 * (x.ndim - 2))
        rank = x.ndim - 2
        reach = [sum(pads[a::rank]) + n for a, n in enumerate(x.shape[2:])]
        inside[...] = 0
        within: Slices = (..., *(slice(n) for n in reach))
        inside[within] = 1
    count = np.asarray(sum(inside[slices] for _, slices in windows.positions()))
    share = call.dy / np.maximum(count, 1)
    gradient = windows.empty(x.shape[:2], call.dy.dtype)
    for _, slices in windows.positions():
        gradient[slices] += share
    return windows.crop(gradient)


def _max_pool(call: Call, index: int) -> Array:
    """Elements of a window that are equal share the gradient."""
    windows, x = _pool_windows(call), call.x
    padded = windows.pad(x, -math.inf)
    ties = np.zeros(call.y.shape, call.dy.dtype)
    for _, slices in windows.positions():
        ties += padded[slices] == call.y
    share = call.dy / np.maximum(ties, 1)
    gradient = windows.empty(x.shape[:2], call.dy.dtype)
    for _, slices in windows.positions():
        gradient[slices] += share * (padded[slices] == call.y)
    return windows.crop(gradient)


RULES: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
}
