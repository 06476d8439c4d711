"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.eliminate_noops import (
    containers,
    copies,
    limits,
    moves,
    neutral,
    repeated,
    wholes,
    windows,
)

RULES: tuple[Rule, ...] = (
    *copies.RULES,
    *moves.RULES,
    *neutral.RULES,
    *windows.RULES,
    *repeated.RULES,
    *limits.RULES,
    *wholes.RULES,
    *containers.RULES,
)
