"""How far two models' outputs are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

RELATIVE_TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""What reassociated sums may differ by, relative to the output's largest magnitude, by dtype.

Types that are not here (integers, booleans, strings, 8-bit floats) must agree exactly.
"""


@dataclass(frozen=True)
class Difference:
    """The difference of one output over all inputs that were run.

    With reference r and result x: `max_abs` = max |x - r|; `max_rel` = max_abs / max |r|, so that
    values near zero do not decide; `sqnr_db` = 10 log10(sum r^2 / sum (x - r)^2), infinite for
    equal outputs; `cosine` the angle's cosine between both as vectors. Where one has a NaN and
    the other not, or infinities differ, `max_abs` is infinite. For types other than
    floating-point numbers all of it is counted on 0 (equal) and 1 (different).
    """

    output: str
    dtype: str
    elements: int
    max_abs: float
    max_rel: float
    cosine: float
    sqnr_db: float

    @property
    def exact(self) -> bool:
        return self.max_abs == 0.0

    def within(self, tolerance: float | None = None) -> bool:
        """Whether it is within `tolerance` relative to the peak (default: by dtype)."""
        limit = RELATIVE_TOLERANCE.get(self.dtype, 0.0) if tolerance is None else tolerance
        return self.max_rel <= limit


class _Sums:
    """Running sums for one output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = ""
        self.elements = 0
        self.max_abs = self.peak = 0.0
        self.dot = self.reference_square = self.result_square = self.error_square = 0.0

    def add(self, reference: Any, result: Any) -> None:
        reference, result = np.asarray(reference), np.asarray(result)
        if reference.shape != result.shape or reference.dtype != result.dtype:
            raise GraphoptError(
                f"is {reference.dtype}{list(reference.shape)} in one model and "
                f"{result.dtype}{list(result.shape)} in the other",
                where=f"output '{self.name}'",
            )
        self.dtype = str(reference.dtype)
        self.elements += reference.size
        if not reference.size:
            return
        r, x = _as_float64(reference, result)
        same = (r == x) | (np.isnan(r) & np.isnan(x))
        broken = ~same & ~(np.isfinite(r) & np.isfinite(x))
        r, x = np.where(np.isfinite(r) & ~broken, r, 0), np.where(np.isfinite(x) & ~broken, x, 0)
        error = x - r
        self.max_abs = math.inf if broken.any() else max(self.max_abs, float(np.abs(error).max()))
        self.peak = max(self.peak, float(np.abs(r).max()))
        self.dot += float(np.vdot(r, x))
        self.reference_square += float(np.vdot(r, r))
        self.result_square += float(np.vdot(x, x))
        self.error_square += math.inf if broken.any() else float(np.vdot(error, error))

    def result(self) -> Difference:
        norms = math.sqrt(self.reference_square) * math.sqrt(self.result_square)
        return Difference(
            output=self.name,
            dtype=self.dtype,
            elements=self.elements,
            max_abs=self.max_abs,
            max_rel=_ratio(self.max_abs, self.peak),
            cosine=self.dot / norms if norms else float(self.max_abs == 0.0),
            sqnr_db=_decibel(self.reference_square, self.error_square),
        )


class Comparer:
    """Compares two models' outputs input by input, and keeps only running sums."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, reference: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Takes in the outputs by name for one more input.

        Raises:
            GraphoptError: if names, shapes or types differ.
        """
        if list(reference) != list(result):
            raise GraphoptError(
                f"the outputs differ by name: {', '.join(reference)} and {', '.join(result)}"
            )
        for name, value in reference.items():
            _add(self._sums, name, value, result[name])

    def result(self) -> tuple[Difference, ...]:
        """The difference of each output over all inputs so far."""
        return tuple(entry.result() for entry in self._sums.values())


def compare(
    reference: Sequence[Mapping[str, Any]], result: Sequence[Mapping[str, Any]]
) -> tuple[Difference, ...]:
    """Compares two models' outputs, a dict by name for each input that was run, in order."""
    comparer = Comparer()
    for expected, got in zip(reference, result, strict=True):
        comparer.add(expected, got)
    return comparer.result()


def _add(sums: dict[str, _Sums], name: str, reference: Any, result: Any) -> None:
    if isinstance(reference, (list, tuple)):  # a sequence: element by element
        if not isinstance(result, (list, tuple)) or len(reference) != len(result):
            raise GraphoptError("differ in length or kind", where=f"output '{name}'")
        for index, (one, other) in enumerate(zip(reference, result, strict=True)):
            _add(sums, f"{name}[{index}]", one, other)
        return
    sums.setdefault(name, _Sums(name)).add(reference, result)


def _as_float64(
    reference: np.ndarray[Any, Any], result: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if str(reference.dtype) in RELATIVE_TOLERANCE:
        return reference.astype(np.float64), result.astype(np.float64)
    different = (reference != result).astype(np.float64)
    return np.ones_like(different), 1.0 - different


def _ratio(value: float, reference: float) -> float:
    if value == 0.0:
        return 0.0
    return value / reference if reference else math.inf


def _decibel(signal: float, error: float) -> float:
    if error == 0.0:
        return math.inf
    if signal == 0.0 or error == math.inf:
        return -math.inf
    return 10.0 * math.log10(signal / error)
