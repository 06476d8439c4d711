"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.fuse_layout import (
    blocks,
    broadcasts,
    einsum,
    reductions,
    selections,
    states,
)

RULES: tuple[Rule, ...] = (
    *blocks.RULES,
    *reductions.RULES,
    *selections.RULES,
    *broadcasts.RULES,
    *einsum.RULES,
    *states.RULES,
)
