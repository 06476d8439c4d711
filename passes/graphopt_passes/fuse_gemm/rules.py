"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule

RULES: tuple[Rule, ...] = ()
