"""Which weight of a layer is best, on rows that it was not fitted on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from graphopt.reconstruction.moments import Moments

Array: TypeAlias = "NDArray[Any]"

CERTAINTY = 2.0
"""The standard errors by which the mean gain of a row must be above zero."""


@dataclass
class Evidence:
    """What a layer reads in the changed model and should give, as the original does.

    Attributes:
        fit: sums over the rows to fit on.
        x: rows to judge by, [groups, rows, inputs] each.
        y: what they should give, [groups, rows, outputs] each, without the bias.
    """

    fit: Moments
    x: list[Array] = field(default_factory=list)
    y: list[Array] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to fit on, or nothing to judge by."""
        return not self.fit.rows or not sum(part.shape[1] for part in self.x)


class Weight(Protocol):
    """A weight that a layer could have."""

    @property
    def matrix(self) -> Array:
        """[groups, inputs, outputs]."""

    @property
    def shift(self) -> Array | None:
        """What its bias gains [groups, outputs], or None for nothing."""


W = TypeVar("W", bound=Weight)


@dataclass(frozen=True)
class Choice(Generic[W]):
    """The best weight for a layer.

    Attributes:
        kept: in what it differs from the present one; empty if nothing was better.
        before: the error of what the layer gives on the held-out rows, relative to what it should.
        after: the same with the new weight.
    """

    weight: W
    kept: tuple[str, ...]
    before: float
    after: float


def choose(
    present: W,
    trials: Iterable[tuple[W, tuple[str, ...]]],
    evidence: Evidence,
    shifted: Callable[[W], W] | None,
) -> Choice[W]:
    """The weight of least error on the rows to judge by; the present one, if that may be chance.

    Args:
        trials: other weights, the present one may be among them, and in what they differ.
        shifted: gives a weight the shift that takes out the mean error of each output (Nagel et
            al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
            section 4.2, here from data); None if its bias cannot change.
    """
    x, y = (np.concatenate(parts, axis=1) for parts in (evidence.x, evidence.y))
    before = _errors(y - x @ present.matrix, present.shift)
    best, errors = present, before
    kept: tuple[str, ...] = ()
    for weight, steps in trials:
        residual = y - x @ weight.matrix
        for trial, more in _with_shift(weight, shifted):
            found = _errors(residual, trial.shift)
            if found.sum() < errors.sum():
                best, kept, errors = trial, (*steps, *more), found
    if not _is_certain(before - errors):
        best, kept, errors = present, (), before
    total = float(np.square(y).sum())
    return Choice(best, kept, _relative(before, total), _relative(errors, total))


def _with_shift(weight: W, shifted: Callable[[W], W] | None) -> Iterator[tuple[W, tuple[str, ...]]]:
    yield weight, ()
    if shifted is not None:
        yield shifted(weight), ("bias",)


def _errors(residual: Array, shift: Array | None) -> Array:
    """The squared error of each row."""
    if shift is not None:
        residual = residual - shift[:, None]
    return np.asarray(np.einsum("gro,gro->r", residual, residual))


def _is_certain(gains: Array) -> bool:
    """Whether the mean of `gains`, one for each row, is above zero by more than `CERTAINTY`."""
    deviation = float(gains.std()) / math.sqrt(len(gains))
    return float(gains.mean()) > CERTAINTY * deviation


def _relative(errors: Array, total: float) -> float:
    return math.sqrt(float(errors.sum()) / total) if total else 0.0
