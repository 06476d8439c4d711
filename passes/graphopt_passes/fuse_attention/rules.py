"""The rules, in the order in which they are tried."""

from __future__ import annotations

from graphopt.rewriting import Rule
from graphopt_passes.fuse_attention import heads
from graphopt_passes.fuse_attention.scores import ScoresToAttention


def rules(assume_regular: bool) -> tuple[Rule, ...]:
    return (Rule("attention", ("MatMul",), ScoresToAttention(assume_regular)), *heads.RULES)
