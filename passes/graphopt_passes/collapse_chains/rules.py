"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.collapse_chains import (
    casts,
    gathers,
    joins,
    quantized,
    ranges,
    repeats,
    shapes,
    signs,
    slices,
)

RULES: tuple[Rule, ...] = (
    *shapes.RULES,
    *casts.RULES,
    *joins.RULES,
    *gathers.RULES,
    *slices.RULES,
    *ranges.RULES,
    *signs.RULES,
    *repeats.RULES,
    *quantized.RULES,
)
