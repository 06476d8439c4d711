"""Other integers, scales and biases for one layer, and which of them is best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.quantization import get_format, mse_parameters
from graphopt.reconstruction import Moments, round_weights
from graphopt_passes.quantize.recovery.layers import IntegerWeight

Array: TypeAlias = "NDArray[Any]"

RIDGE = 1e-2
"""How much the float weights count in the fit, relative to the mean variance of the inputs."""
CERTAINTY = 2.0
"""The standard errors by which the mean gain of a row must be above zero."""


@dataclass
class Evidence:
    """What a layer reads in the quantized model and should give, as the float model does.

    Attributes:
        fit: sums over the rows to fit on.
        x: rows to judge by, [groups, rows, inputs] each.
        y: what they should give, [groups, rows, outputs] each.
    """

    fit: Moments
    x: list[Array] = field(default_factory=list)
    y: list[Array] = field(default_factory=list)


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


@dataclass(frozen=True)
class Choice:
    """The best weight for a layer.

    Attributes:
        kept: in what it differs: `scale`, `rounding`, `bias`; empty if nothing was better.
        before: the error of what the layer gives on the held-out rows, relative to what it should.
        after: the same with the new weight.
    """

    weight: IntegerWeight
    kept: tuple[str, ...]
    before: float
    after: float


def choose(problem: Problem, evidence: Evidence) -> Choice:
    """The weight of least error on the rows to judge by; the present one, if that may be chance."""
    x, y = (np.concatenate(parts, axis=1) for parts in (evidence.x, evidence.y))
    present = _errors(y - x @ problem.present.matrix)
    best, errors = problem.present, present
    kept: tuple[str, ...] = ()
    for weight, steps in _trials(problem, evidence.fit):
        residual = y - x @ weight.matrix
        for trial, more in _with_shift(problem, evidence.fit, weight):
            found = _errors(residual if trial.shift is None else residual - trial.shift[:, None])
            if found.sum() < errors.sum():
                best, kept, errors = trial, (*steps, *more), found
    if not _is_certain(present - errors):
        best, kept, errors = problem.present, (), present
    total = float(np.square(y).sum())
    return Choice(best, kept, _relative(present, total), _relative(errors, total))


def _errors(residual: Array) -> Array:
    """The squared error of each row."""
    return np.asarray(np.einsum("gro,gro->r", residual, residual))


def _is_certain(gains: Array) -> bool:
    """Whether the mean of `gains`, one for each row, is above zero by more than `CERTAINTY`."""
    deviation = float(gains.std()) / math.sqrt(len(gains))
    return float(gains.mean()) > CERTAINTY * deviation


def _relative(errors: Array, total: float) -> float:
    return math.sqrt(float(errors.sum()) / total) if total else 0.0


def _with_shift(
    problem: Problem, fit: Moments, weight: IntegerWeight
) -> Iterator[tuple[IntegerWeight, tuple[str, ...]]]:
    """`weight` without and, if that is allowed, with a correction of the bias.

    The correction is the mean error of each output (Nagel et al., "Data-Free Quantization Through
    Weight Equalization and Bias Correction", 2019, section 4.2, here from data).
    """
    yield weight, ()
    if problem.shifts:
        yield replace(weight, shift=fit.bias(weight.matrix)), ("bias",)


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
