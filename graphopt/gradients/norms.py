"""Gradients of normalizations."""

from __future__ import annotations

import numpy as np

from graphopt.gradients.call import Array, Call, Rule, fold


def _per_channel(vector: Array, rank: int) -> Array:
    return vector.reshape(-1, *[1] * (rank - 2))


def _batch_norm(call: Call, index: int) -> Array:
    """With statistics that are given: they are taken for constants."""
    x, scale = call.x, call.input(1)
    mean, variance = (_per_channel(call.input(n), x.ndim) for n in (3, 4))
    inverse = 1 / np.sqrt(variance + call.number("epsilon", 1e-5))
    if index == 0:
        return np.asarray(call.dy * _per_channel(scale, x.ndim) * inverse)
    others = (0, *range(2, x.ndim))
    gradient = call.dy * (x - mean) * inverse if index == 1 else call.dy
    return np.asarray(gradient.sum(axis=others))


def _normalized(call: Call, x: Array, axes: tuple[int, ...], centre: bool) -> tuple[Array, Array]:
    """x with mean 0 (if to be centred) and mean square 1 over `axes`, and what that divided by."""
    centred = x - x.mean(axis=axes, keepdims=True) if centre else x
    square = np.square(centred).mean(axis=axes, keepdims=True)
    divisor = np.sqrt(square + call.number("epsilon", 1e-5))
    return centred / divisor, divisor


def _back(
    gradient: Array, hat: Array, divisor: Array, axes: tuple[int, ...], centre: bool
) -> Array:
    """The gradient at x from that at `hat`, which `_normalized` gives."""
    along = hat * (gradient * hat).mean(axis=axes, keepdims=True)
    mean = gradient.mean(axis=axes, keepdims=True) if centre else 0.0
    return np.asarray((gradient - mean - along) / divisor)


def _layer_norm(call: Call, index: int) -> Array:
    x, centre = call.x, call.node.op_type == "LayerNormalization"
    axes = tuple(range(call.axis(-1), x.ndim))
    hat, divisor = _normalized(call, x, axes, centre)
    if index == 0:
        return _back(call.dy * call.input(1), hat, divisor, axes, centre)
    return fold(call.dy * hat if index == 1 else call.dy, call.input(index).shape)


def _instance_norm(call: Call, index: int) -> Array:
    x = call.x
    axes = tuple(range(2, x.ndim))
    hat, divisor = _normalized(call, x, axes, centre=True)
    if index == 0:
        return _back(call.dy * _per_channel(call.input(1), x.ndim), hat, divisor, axes, True)
    return np.asarray((call.dy * hat if index == 1 else call.dy).sum(axis=(0, *axes)))


def _group_norm(call: Call, index: int) -> Array:
    """Before opset 21 there is a scale for each group, later for each channel."""
    x, groups = call.x, call.node.attributes.get_int("num_groups", 1)
    parted = (x.shape[0], groups, -1)
    hat, divisor = _normalized(call, x.reshape(parted), (2,), centre=True)
    scale = call.input(1)
    share = x.shape[1] // len(scale)
    if index == 0:
        gradient = call.dy * _per_channel(np.repeat(scale, share), x.ndim)
        return _back(gradient.reshape(parted), hat, divisor, (2,), True).reshape(x.shape)
    gradient = call.dy * hat.reshape(x.shape) if index == 1 else call.dy
    return np.asarray(gradient.sum(axis=(0, *range(2, x.ndim))).reshape(len(scale), share).sum(1))


def _lp_norm(call: Call, index: int) -> Array:
    x, y, axis = call.x, call.y, call.axis(-1)
    absolute = call.node.attributes.get_int("p", 2) == 1
    norm = (
        np.abs(x).sum(axis, keepdims=True) if absolute else np.sqrt((x**2).sum(axis, keepdims=True))
    )
    slope = np.sign(x) if absolute else y
    dot = (call.dy * y).sum(axis, keepdims=True)
    return np.asarray((call.dy - slope * dot) / np.where(norm == 0, 1, norm))


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "RMSNormalization": _layer_norm,
}
