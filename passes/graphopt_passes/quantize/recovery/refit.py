"""Other integers, scales and biases for one layer, and which of them are better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.quantization import get_format, mse_parameters
from graphopt.reconstruction import Moments, round_weights

Array: TypeAlias = "NDArray[Any]"

RIDGES = (1e-2,)


@dataclass(frozen=True)
class Weights:
    integers: Array
    scale: Array
    shift: Array | None = None
    kept: tuple[str, ...] = ()

    @property
    def matrix(self) -> Array:
        return self.integers * self.scale[:, None, :]


@dataclass
class Evidence:
    """What is known of a layer: sums over rows to fit on, and rows to judge by."""

    fit: Moments
    x: list[Array]
    y: list[Array]


@dataclass(frozen=True)
class Choice:
    weights: Weights
    before: float
    after: float


def trials(
    present: Weights, reference: Array, fit: Moments, limits: tuple[int, int], dtype: Any, centred: bool
) -> Iterator[Weights]:
    yield present
    second = np.einsum("gii->gi", fit.xx)
    yield _nearest(reference, _scales(reference, second, limits, dtype), limits, ("scale",))
    for ridge in RIDGES:
        hessian, target = fit.quadratic(reference, centred=centred, ridge=ridge)
        for scale, kept in (
            (present.scale, (f"w{ridge}",)),
            (_scales(target, np.einsum("gii->gi", hessian), limits, dtype), (f"w{ridge}", "scale")),
        ):
            integers = round_weights(target, hessian, scale[:, None, :], limits)
            yield Weights(integers, scale, kept=kept)


def _nearest(target: Array, scale: Array, limits, kept) -> Weights:
    return Weights(np.clip(np.rint(target / scale[:, None]), *limits), scale, kept=kept)


def _scales(target: Array, importance: Array, limits: tuple[int, int], dtype: Any) -> Array:
    """The scale of each output, [groups, outputs], of least error weighted by `importance`."""
    groups, inputs, outputs = target.shape
    rows = np.swapaxes(target, 1, 2).reshape(-1, inputs).astype(np.float32)
    weights = np.repeat(importance / max(importance.mean(), 1e-300), outputs, axis=0)
    scale, _ = mse_parameters(
        rows, get_format("int8"), axis=0, limits=limits, importance=weights, dtype=dtype
    )
    return scale.astype(np.float64).reshape(groups, outputs)


def choose(
    present: Weights, reference: Array, evidence: Evidence, limits, dtype, centred: bool
) -> Choice:
    best, least, before = present, np.inf, None
    x, y = np.concatenate(evidence.x, axis=1), np.concatenate(evidence.y, axis=1)
    for trial in trials(present, reference, evidence.fit, limits, dtype, centred):
        error = y - x @ trial.matrix
        plain = float(np.square(error).sum())
        if before is None:
            before = plain
        if plain < least:
            best, least = trial, plain
        if centred:
            shift = evidence.fit.bias(trial.matrix)
            shifted = float(np.square(error - shift[:, None]).sum())
            if shifted < least:
                best = Weights(trial.integers, trial.scale, shift, (*trial.kept, "bias"))
                least = shifted
    scale = float(np.square(y).sum())
    return Choice(best, np.sqrt(before / scale), np.sqrt(least / scale))
