"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.eliminate_noops import copies, moves, neutral, repeated, windows

RULES: tuple[Rule, ...] = (
    *copies.RULES,
    *moves.RULES,
    *neutral.RULES,
    *windows.RULES,
    *repeated.RULES,
)
