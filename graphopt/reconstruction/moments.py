"""Ridge regression towards the present weights, from sums that are gathered batch by batch."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"

RIDGE = 1e-2
"""The weight of the present solution, relative to the mean variance of the inputs."""


class Moments:
    """Sums over rows of X [groups, rows, inputs] and Y [groups, rows, outputs], float64."""

    def __init__(self, groups: int, inputs: int, outputs: int, *, full: bool = True) -> None:
        """Starts at nothing.

        Args:
            full: whether to hold the products that `solve` needs, [groups, inputs, inputs].
        """
        self.rows = 0
        self.x = np.zeros((groups, inputs))
        self.y = np.zeros((groups, outputs))
        self.xx = np.zeros((groups, inputs, inputs)) if full else None
        self.xy = np.zeros((groups, inputs, outputs)) if full else None
        self.yy = np.zeros((groups, outputs))

    def add(self, x: Array, y: Array) -> None:
        self.rows += x.shape[1]
        self.x += x.sum(axis=1)
        self.y += y.sum(axis=1)
        self.yy += np.square(y).sum(axis=1)
        if self.xx is not None and self.xy is not None:
            if len(x) == 1:  # for two dimensions numpy uses that X'X is symmetric
                self.xx[0] += x[0].T @ x[0]
                self.xy[0] += x[0].T @ y[0]
            else:
                turned = np.swapaxes(x, 1, 2)
                self.xx += turned @ x
                self.xy += turned @ y

    def merge(self, other: Moments) -> None:
        self.rows += other.rows
        for name in ("x", "y", "xx", "xy", "yy"):
            mine, more = getattr(self, name), getattr(other, name)
            if mine is not None:
                mine += more

    def bias(self, weight: Array) -> Array:
        """The bias [groups, outputs] that makes the mean of X W + bias that of Y."""
        return np.asarray((self.y - _times(self.x, weight)) / max(self.rows, 1))

    def scale(self, weight: Array, *, centred: bool) -> Array:
        """The factors [groups, outputs] that make the variance of X W that of Y.

        An output that never changes has 1.

        Args:
            centred: whether a bias takes care of the means; otherwise it is the mean squares that
                are made equal.
        """
        assert self.xx is not None
        given = np.einsum("gio,gio->go", weight, self.xx @ weight)
        wanted = self.yy
        noise = np.finfo(np.float64).eps * len(weight[0]) * given
        if centred:
            given = given - np.square(_times(self.x, weight)) / max(self.rows, 1)
            wanted = wanted - np.square(self.y) / max(self.rows, 1)
        moves = given > noise
        ratio = np.maximum(wanted, 0) / np.where(moves, given, 1)
        return np.where(moves, np.sqrt(ratio), 1.0)

    def solve(self, weight: Array, *, centred: bool, ridge: float = RIDGE) -> Array:
        """The W that minimizes |Y - X W|^2 + lambda |W - weight|^2.

        Args:
            weight: [groups, inputs, outputs].
            centred: whether a bias takes care of the means.
            ridge: lambda, relative to the mean over the inputs of the diagonal of X'X, per group.
        """
        return self.quadratic(weight, centred=centred, ridge=ridge)[1]

    def quadratic(
        self, weight: Array, *, centred: bool, ridge: float = RIDGE
    ) -> tuple[Array, Array]:
        """What `solve` minimizes, as a quadratic function: up to a constant it is |W - S|_H^2.

        Returns:
            H = X'X + lambda [groups, inputs, inputs], positive definite, and the solution S
            [groups, inputs, outputs].
        """
        assert self.xx is not None
        assert self.xy is not None
        xx, xy = self.xx, self.xy
        if centred:
            xx = xx - self.x[:, :, None] * self.x[:, None, :] / max(self.rows, 1)
            xy = xy - self.x[:, :, None] * self.y[:, None, :] / max(self.rows, 1)
        inputs = xx.shape[1]
        # How far the rounding of these sums may be off: the matrix need not even be positive then.
        noise = np.finfo(np.float64).eps * self.rows * np.einsum("gii->g", self.xx)
        variance = np.einsum("gii->gi", xx).mean(axis=1)
        # A group that reads nothing but constants has nothing to solve: it keeps its weight.
        varies = (inputs * variance > noise)[:, None, None]
        xx, xy = np.where(varies, xx, 0.0), np.where(varies, xy, 0.0)
        strength = np.maximum(ridge * variance, noise)[:, None, None]
        strength = np.where(varies, strength, 1.0)
        hessian = xx + strength * np.eye(inputs)
        return hessian, np.asarray(np.linalg.solve(hessian, xy + strength * weight))

    def error(self, weight: Array, bias: Array) -> float:
        """The sum of |Y - X W - bias|^2 over all rows."""
        assert self.xx is not None
        assert self.xy is not None
        quadratic = np.einsum("gio,gio->", weight, self.xx @ weight)
        offset = self.y - _times(self.x, weight)
        linear = np.einsum("gio,gio->", weight, self.xy)
        square = self.yy.sum() + quadratic - 2 * linear
        return float(square - 2 * (bias * offset).sum() + self.rows * np.square(bias).sum())


def _times(x: Array, weight: Array) -> Array:
    """[groups, inputs] times [groups, inputs, outputs]."""
    return np.asarray(np.einsum("gi,gio->go", x, weight))
