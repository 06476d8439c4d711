"""Rounding the weights of a layer so that its outputs change least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

BLOCK = 128
"""Inputs that are rounded before the later ones hear of it: it only decides the speed."""


def round_weights(target: Array, hessian: Array, scale: Array, limits: tuple[int, int]) -> Array:
    """The integers Q that make |Q scale - target|_H^2 small, for each output on its own.

    Inputs are rounded one after the other, those that matter most first, and what each rounding
    does wrong is made up for by the inputs that are still to come (Frantar et al., "GPTQ", 2022,
    section 3, with the order of its `act-order`; the update is that of the optimal brain surgeon).
    An output for which that is no better than rounding to the nearest integer is rounded so.

    Args:
        target: float64 [groups, inputs, outputs].
        hessian: H, float64 [groups, inputs, inputs], positive definite.
        scale: positive, broadcastable to the shape of `target`.
        limits: the least and the greatest integer to use.

    Returns:
        float64 [groups, inputs, outputs], of integers.
    """
    scale = np.broadcast_to(scale, target.shape)

    def nearest(values: Array, inputs: Array) -> Array:
        steps = np.take_along_axis(scale, inputs, 1)
        return np.asarray(np.clip(np.rint(values / steps), *limits) * steps)

    return np.asarray(np.rint(_round(target, hessian, nearest) / scale))


def round_to_type(
    target: Array, hessian: Array, rounded: Callable[[Array], Array], zeros: Array
) -> Array:
    """The numbers R of a type that make |R - target|_H^2 small, as `round_weights` does.

    Args:
        target: float64 [groups, inputs, outputs].
        hessian: H, float64 [groups, inputs, inputs], positive definite.
        rounded: gives the nearest numbers of the type, as float64.
        zeros: bool, in the shape of `target`: where R is 0.

    Returns:
        float64 [groups, inputs, outputs].
    """
    if not zeros.any():
        return _round(target, hessian, lambda values, _: rounded(values))

    def nearest(values: Array, inputs: Array) -> Array:
        return np.where(np.take_along_axis(zeros, inputs, 1), 0.0, rounded(values))

    return _round(target, hessian, nearest)


Nearest: TypeAlias = Callable[[Array, Array], Array]
"""The nearest numbers that are allowed, of values [groups, some inputs, outputs] and the numbers of
those inputs [groups, some inputs, 1]."""


def _round(target: Array, hessian: Array, nearest: Nearest) -> Array:
    order = np.argsort(-np.einsum("gii->gi", hessian), axis=1, kind="stable")
    factor = _inverse_factor(_reordered(hessian, order))
    along = order[:, :, None]
    visited = _propagate(np.take_along_axis(target, along, 1), factor, nearest, along)
    found = np.empty_like(visited)
    np.put_along_axis(found, along, visited, 1)
    plain = nearest(target, np.broadcast_to(np.arange(target.shape[1])[:, None], along.shape))
    better = quadratic_error(found - target, hessian) < quadratic_error(plain - target, hessian)
    return np.where(better[:, None, :], found, plain)


def quadratic_error(difference: Array, hessian: Array) -> Array:
    """|difference|_H^2 of each output: [groups, inputs, outputs] -> [groups, outputs]."""
    return np.asarray(np.einsum("gio,gio->go", difference, hessian @ difference))


def _reordered(hessian: Array, order: Array) -> Array:
    rows = np.take_along_axis(hessian, order[:, :, None], 1)
    return np.take_along_axis(rows, order[:, None, :], 2)


def _inverse_factor(hessian: Array) -> Array:
    """The upper triangular U with inverse(H) = U'U: row i leaves out all inputs before i."""
    return np.asarray(np.swapaxes(np.linalg.cholesky(np.linalg.inv(hessian)), 1, 2))


def _propagate(target: Array, factor: Array, nearest: Nearest, order: Array) -> Array:
    left = target.copy()
    found = np.empty_like(target)
    inputs = target.shape[1]
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = np.empty_like(target[:, start:end])
        for i in range(start, end):
            found[:, i] = nearest(left[:, i, None], order[:, i, None])[:, 0]
            error = (left[:, i] - found[:, i]) / factor[:, i, i, None]
            left[:, i:end] -= factor[:, i, i:end, None] * error[:, None, :]
            errors[:, i - start] = error
        left[:, end:] -= np.swapaxes(factor[:, start:end, end:], 1, 2) @ errors
    return found
