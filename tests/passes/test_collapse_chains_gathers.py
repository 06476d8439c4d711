"""collapse-chains: Gathers of few indices, next to Unsqueeze and Concat."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import Outcome, apply

from graphopt_passes.collapse_chains import CollapseChains

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def collapse(nodes: str, outputs: str = "float[p, q, r] y", opset: int = 17) -> Outcome:
    return apply(
        CollapseChains(),
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        f"g (float[n, 3, 4] x, int64[1] d) => ({outputs}) "
        "<int64 one = {1}, int64 last = {-1}, int64[1] z = {0}, int64[1] u = {1}, "
        f"int64[1] m = {{-2}}, int64[2] l = {{1, 0}}, int64[1] k = {{2}}> {{ {nodes} }}",
    )


def feed(outcome: Outcome) -> bool:
    return outcome.agrees({"x": X, "d": np.array([1])})


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("g = Gather <axis = 1> (x, one) y = Unsqueeze (g, u)", ["Gather"]),
        ("g = Gather <axis = -2> (x, last) y = Unsqueeze (g, m)", ["Gather"]),
        ("g = Gather <axis = 1> (x, one) y = Unsqueeze (g, z)", ["Gather", "Unsqueeze"]),
        ("g = Gather <axis = 1> (x, one) y = Unsqueeze (g, d)", ["Gather", "Unsqueeze"]),
    ],
)
def test_unsqueeze_of_gather(nodes: str, left: list[str]) -> None:
    outcome = collapse(nodes)
    assert outcome.operators == left
    assert feed(outcome)


def test_a_gather_that_others_use_keeps_its_rank() -> None:
    outcome = collapse(
        "g = Gather <axis = 1> (x, one) y = Unsqueeze (g, u) w = Neg (g)",
        "float[p, q, r] y, float[s, t] w",
    )
    assert outcome.operators == ["Gather", "Unsqueeze", "Neg"]
    assert feed(outcome)


U, L, K, D = (f"Gather <axis = 1> (x, {name})" for name in "ulkd")


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        (f"a = {U} b = {L} y = Concat <axis = 1> (a, b)", ["Gather", "Concat"]),
        (
            f"a = {U} b = {L} c = {K} y = Concat <axis = -2> (a, x, b, c)",
            ["Gather", "Gather", "Concat"],
        ),
        (
            "a = Gather <axis = 2> (x, u) b = Gather <axis = 2> (x, k) "
            "y = Concat <axis = 1> (a, b)",
            ["Gather", "Gather", "Concat"],
        ),
        (
            f"n = Neg (x) a = {U} b = Gather <axis = 1> (n, k) y = Concat <axis = 1> (a, b)",
            ["Neg", "Gather", "Gather", "Concat"],
        ),
        (f"a = {U} b = {D} y = Concat <axis = 1> (a, b)", ["Gather", "Gather", "Concat"]),
    ],
)
def test_concat_of_gathers(nodes: str, left: list[str]) -> None:
    outcome = collapse(nodes)
    assert outcome.operators == left
    assert feed(outcome)
