"""How far what a model gives is from what another gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.data.feeds import Feed

Array: TypeAlias = "NDArray[Any]"

SUM_TOLERANCE = 1e-2
"""Rows that sum to one within this (as float16 has it) are probabilities."""


def divergence(expected: Sequence[Feed], actual: Sequence[Feed]) -> float:
    """The mean over the floating-point outputs of how much they have changed; 0 if not at all.

    Of an output with a row of classes for each sample, it is the mean Kullback-Leibler divergence
    from what was expected, in nats: probabilities as they are, other rows (logits) after a softmax.
    Of any other output, it is the squared difference relative to the square.

    Args:
        expected, actual: the outputs by name, a few samples to a feed.
    """
    names = [name for name, value in expected[0].items() if _is_float(value)]
    total = 0.0
    for name in names:
        pairs = [(e[name], a[name]) for e, a in zip(expected, actual, strict=True)]
        if any(e.shape != a.shape for e, a in pairs):
            return float("inf")
        classes = all(_is_classes(e) for e, _ in pairs)
        total += (_relative_entropy if classes else _relative_error)(pairs)
    return total / max(len(names), 1) if np.isfinite(total) else float("inf")


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fV" and value.size > 0


def _is_classes(value: Array) -> bool:
    return (value.ndim == 2 and value.shape[1] > 1) or (value.ndim > 2 and _sums_to_one(value))


def _sums_to_one(value: Array) -> bool:
    wide = value.astype(np.float64)
    return bool((wide >= 0).all() and (np.abs(wide.sum(-1) - 1) < SUM_TOLERANCE).all())


def _relative_entropy(pairs: Sequence[tuple[Array, Array]]) -> float:
    given = all(_sums_to_one(e) for e, _ in pairs)
    total, rows = 0.0, 0
    for expected, actual in pairs:
        p, q = (_log_probabilities(array, given) for array in (expected, actual))
        total += float((np.exp(p) * (p - q)).sum())
        rows += p[..., 0].size
    return total / rows


def _log_probabilities(array: Array, given: bool) -> Array:
    wide = array.astype(np.float64)
    if given:
        return np.log(np.maximum(wide, 1e-12))
    wide = wide - wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def _relative_error(pairs: Sequence[tuple[Array, Array]]) -> float:
    wide = [(e.astype(np.float64), a.astype(np.float64)) for e, a in pairs]
    error = sum(float(np.square(e - a).sum()) for e, a in wide)
    return error / max(sum(float(np.square(e).sum()) for e, _ in wide), 1e-30)
