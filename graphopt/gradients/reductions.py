"""Gradients of reductions, of global pools, and of Softmax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.gradients.call import Array, Call, Rule

Axes = tuple[int, ...]


def _axes(call: Call) -> Axes:
    rank = call.x.ndim
    if call.node.op_type.startswith("Global"):
        return tuple(range(2, rank))
    given = call.ints("axes", 1)
    if given:
        return tuple(axis % rank for axis in given)
    return () if call.flag("noop_with_empty_axes") else tuple(range(rank))


def _reduction(slope: Callable[[Array, Array, Axes], Array]) -> Rule:
    """The rule, from the derivative: given x, y with its reduced axes kept, and the axes."""

    def rule(call: Call, index: int) -> Array:
        axes = _axes(call)
        kept = tuple(1 if axis in axes else n for axis, n in enumerate(call.x.shape))
        dy, y = call.dy.reshape(kept), call.y.reshape(kept)
        return np.broadcast_to(dy * slope(call.x, y, axes), call.x.shape)

    return rule


def _mean(x: Array, y: Array, axes: Axes) -> Array:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return np.asarray(1 / max(count, 1), x.dtype)


def _extreme(x: Array, y: Array, axes: Axes) -> Array:
    """Elements that are equal share the gradient."""
    mask = (x == y).astype(x.dtype)
    return np.asarray(mask / np.maximum(mask.sum(axis=axes, keepdims=True), 1))


def _l2(x: Array, y: Array, axes: Axes) -> Array:
    return np.asarray(x / np.where(y == 0, 1, y))


def _one(x: Array, y: Array, axes: Axes) -> Array:
    return np.ones((), x.dtype)


def _softmax_axes(call: Call) -> Axes:
    """Before opset 13 all axes from the given one on are taken as one."""
    if call.opset < 13:
        return tuple(range(call.axis(1), call.x.ndim))
    return (call.axis(-1),)


def _softmax(call: Call, index: int) -> Array:
    dot = (call.dy * call.y).sum(axis=_softmax_axes(call), keepdims=True)
    return np.asarray(call.y * (call.dy - dot))


def _log_softmax(call: Call, index: int) -> Array:
    total = call.dy.sum(axis=_softmax_axes(call), keepdims=True)
    return np.asarray(call.dy - np.exp(call.y) * total)


RULES: dict[str, Rule] = {
    "GlobalAveragePool": _reduction(_mean),
    "GlobalMaxPool": _reduction(_extreme),
    "LogSoftmax": _log_softmax,
    "ReduceL1": _reduction(lambda x, y, axes: np.sign(x)),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSumExp": _reduction(lambda x, y, axes: np.exp(x - y)),
    "ReduceMax": _reduction(_extreme),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_extreme),
    "ReduceSum": _reduction(_one),
    "ReduceSumSquare": _reduction(lambda x, y, axes: 2 * x),
    "Softmax": _softmax,
}
