"""The ways to make up for a cut, each a function of the moments of a layer's rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.reconstruction import RIDGE, Moments

Array: TypeAlias = "NDArray[Any]"
Method: TypeAlias = Literal["ls", "scale-shift", "bias"]
Solver: TypeAlias = "Callable[[Moments], tuple[Array, Array]]"
"""From moments to a weight [groups, inputs, outputs] and a bias [groups, outputs]."""

STEP = 10.0
RIDGES = (1e-5, 1.0)
"""The strength of the ridge is searched between these, in steps of a factor."""


def choose_solver(
    method: Method, fit: Moments, held_out: Moments, old: Array, *, centred: bool
) -> Solver:
    """What to refit a layer by.

    Args:
        fit, held_out: for `ls`, the ridge is the one that, solved on the first, is best on the
            second; the others do not use them.
        old: the present weight.
        centred: whether the layer can have a bias. Without, `bias` is the present one: zeros.
    """
    if method == "bias":
        return partial(_shift, old, centred)
    if method == "scale-shift":
        return partial(_scale_shift, old, centred)

    def error(ridge: float) -> float:
        return held_out.error(*_least_squares(old, centred, ridge, fit))

    return partial(_least_squares, old, centred, _best_ridge(error))


def _shift(old: Array, centred: bool, sums: Moments) -> tuple[Array, Array]:
    """Means are made equal (Nagel et al. 2019, arXiv:1906.04721, section 4.2)."""
    return old, sums.bias(old) if centred else np.zeros(old.shape[::2])


def _scale_shift(old: Array, centred: bool, sums: Moments) -> tuple[Array, Array]:
    """Means and variances are made equal.

    That is what BatchNorms whose statistics are measured anew do; in exported graphs they are
    folded into the weights.
    """
    return _shift(old * sums.scale(old, centred=centred)[:, None, :], centred, sums)


def _least_squares(old: Array, centred: bool, ridge: float, sums: Moments) -> tuple[Array, Array]:
    """The least squared error, with a ridge towards the present weight."""
    return _shift(sums.solve(old, centred=centred, ridge=ridge), centred, sums)


def _best_ridge(error: Callable[[float], float]) -> float:
    """Where `error` is least: downhill from the default, in steps, since each costs a solution."""
    best, least = RIDGE, error(RIDGE)
    for factor in (1 / STEP, STEP):
        ridge = best * factor
        while RIDGES[0] * 0.99 < ridge < RIDGES[1] * 1.01:
            found = error(ridge)
            if not found < least:
                break
            best, least = ridge, found
            ridge *= factor
        if best != RIDGE:
            break
    return best
