"""What refitting a layer needs, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_ROWS = 60_000
"""Rows (positions of all samples) that one layer is fitted on, at most."""
ROWS_PER_INPUT, MIN_ROWS = 50, 8192
"""More rows than so many for each input of a layer, and than so many in all, change nothing."""


def enough_rows(inputs: int) -> int:
    """On how many rows a layer that sums `inputs` products is fitted."""
    return min(MAX_ROWS, max(MIN_ROWS, ROWS_PER_INPUT * inputs))


@dataclass
class Refit:
    """What refitting layers came to.

    Attributes:
        layers: name, and the relative error on held-out rows before and after.
        declined: name and reason.
    """

    layers: list[tuple[str, float, float]] = field(default_factory=list)
    declined: list[tuple[str, str]] = field(default_factory=list)
