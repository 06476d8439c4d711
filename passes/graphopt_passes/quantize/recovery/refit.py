"""Other integers, scales and biases for one layer, and which of them is best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.quantization import get_format, mse_parameters
from graphopt.reconstruction import Choice, Evidence, Moments, choose, round_weights
from graphopt_passes.quantize.recovery.layers import IntegerWeight

Array: TypeAlias = "NDArray[Any]"

RIDGE = 1e-2
"""How much the float weights count in the fit, relative to the mean variance of the inputs."""


@dataclass(frozen=True)
class Problem:
    """How the weight of a layer may be chosen.

    Attributes:
        present: the weight as it is.
        reference: the float weight, [groups, inputs, outputs].
        limits: the least and the greatest integer.
        least: the least scales, [groups, outputs].
        dtype: that of the scales.
        rounding: whether the integers may change.
        shifts: whether the bias may.
    """

    present: IntegerWeight
    reference: Array
    limits: tuple[int, int]
    least: Array
    dtype: np.dtype[Any]
    rounding: bool
    shifts: bool

    def scales(self, target: Array, importance: Array) -> Array:
        """The scale of each output of least squared error, each input with its `importance`."""
        groups, inputs, outputs = target.shape
        rows = np.swapaxes(target, 1, 2).reshape(-1, inputs).astype(np.float32)
        weight = np.repeat(importance / max(float(importance.mean()), 1e-300), outputs, axis=0)
        scale, _ = mse_parameters(
            rows,
            get_format("int8"),
            axis=0,
            limits=self.limits,
            importance=weight,
            dtype=self.dtype,
        )
        least = self.least.reshape(-1).astype(self.dtype)
        return np.reshape(np.maximum(scale, least).astype(np.float64), (groups, outputs))


def better(problem: Problem, evidence: Evidence) -> Choice[IntegerWeight]:
    """The best weight; `kept` tells in what it differs: `scale`, `rounding`, `bias`."""

    def shifted(weight: IntegerWeight) -> IntegerWeight:
        return replace(weight, shift=evidence.fit.bias(weight.matrix))

    trials = _trials(problem, evidence.fit)
    return choose(problem.present, trials, evidence, shifted if problem.shifts else None)


def _trials(problem: Problem, fit: Moments) -> Iterator[tuple[IntegerWeight, tuple[str, ...]]]:
    """The present weight, and others without a correction of the bias."""
    yield problem.present, ()
    if not problem.rounding or fit.xx is None:
        return
    importance = np.einsum("gii->gi", fit.xx)
    scale = problem.scales(problem.reference, importance)
    steps = np.rint(problem.reference / scale[:, None])
    yield IntegerWeight(np.clip(steps, *problem.limits), scale), ("scale",)
    # The target makes up for the errors of what the layer reads: it gives what the float model
    # gives, as well as any weight can.
    hessian, target = fit.quadratic(problem.reference, centred=problem.shifts, ridge=RIDGE)
    own = problem.scales(target, np.einsum("gii->gi", hessian))
    for scale, names in ((problem.present.scale, ("rounding",)), (own, ("rounding", "scale"))):
        integers = round_weights(target, hessian, scale[:, None], problem.limits)
        yield IntegerWeight(integers, scale), names
