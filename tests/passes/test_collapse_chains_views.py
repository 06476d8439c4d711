"""collapse-chains: Reshape and its kin, Transpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import Outcome, apply, ints, numbers, with_shapes

from graphopt_passes.collapse_chains import CollapseChains


def collapse(graph: str, *, opset: int = 17, ir_version: int = 8, edit: Any = None) -> Outcome:
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}'
    return apply(CollapseChains(), source, edit)


def shape_of(outcome: Outcome, node: int = 0, index: int = 1) -> list[int]:
    return outcome.initializers[outcome.after.graph.node[node].input[index]].tolist()


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ([6, 4], [4, 6], [4, 6]),
        ([6, 4], [-1, 2], [12, 2]),
        ([6, 4], [0, 2, 2], [6, 2, 2]),
        ([0, 12], [0, 4, 3], [0, 4, 3]),
        ([0, 0, 2, 2], [0, 0, 4, 1], [0, 0, 4, 1]),
        ([-1, 4], [0, 2, 2], [-1, 2, 2]),
        ([4, -1], [-1, 0], None),
        ([-1, 2], [0, -1], None),
    ],
)
def test_reshape_of_reshape(inner: list[int], outer: list[int], expected: list[int] | None) -> None:
    rank = ", ".join(f"r{axis}" for axis in range(len(outer)))
    outcome = collapse(
        f"(float[n, 3, 4] x) => (float[{rank}] y) <{ints(i=inner, o=outer)}> "
        "{ a = Reshape (x, i) y = Reshape (a, o) }"
    )
    assert outcome.operators == ["Reshape"] * (1 if expected else 2)
    if expected:
        assert shape_of(outcome) == expected
    else:
        assert "copies a dimension" in outcome.reasons
    assert outcome.agrees({"x": numbers(2, 3, 4)})


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a = Flatten (x) y = Reshape (a, s)", ["Reshape"]),
        ("a = Squeeze (x, one) y = Reshape (a, s)", ["Reshape"]),
        ("a = Unsqueeze (x, zero) y = Reshape (a, s)", ["Reshape"]),
        ("a = Reshape (x, s) y = Flatten (a)", ["Reshape"]),
        ("a = Reshape (x, s) y = Unsqueeze (a, zero)", ["Reshape"]),
        ("a = Squeeze (x, one) y = Unsqueeze (a, zero)", ["Reshape"]),
        ("a = Unsqueeze (x, zero) b = Unsqueeze (a, two) y = Unsqueeze (b, zero)", ["Unsqueeze"]),
        ("a = Unsqueeze (x, one) b = Squeeze (a, one) y = Neg (b)", ["Neg"]),
        ("a = Squeeze (x, one) b = Unsqueeze (a, one) y = Neg (b)", ["Neg"]),
        ("a = Squeeze (x, one) y = Squeeze (a, last)", ["Squeeze"]),
        ("a = Reshape (x, t) y = Reshape (a, s) z = Reshape (a, t)", ["Reshape", "Reshape"]),
        ("a = Reshape (x, t) y = Reshape (a, s) z = Neg (a)", ["Reshape", "Reshape", "Neg"]),
        ("z = Reshape (x, t) y = Reshape (z, s)", ["Reshape", "Reshape"]),
    ],
)
def test_views_of_views(nodes: str, expected: list[str]) -> None:
    constants = ints(s=[4, 6], t=[-1, 8], zero=[0], one=[1], two=[2], last=[-1])
    outputs = "float[] y, float[] z" if "z =" in nodes else "float[] y"
    outcome = collapse(
        f"(float[3, 1, 8, 1] x) => ({outputs}) <{constants}> {{ {nodes} }}", edit=with_shapes
    )
    assert outcome.operators == expected
    assert outcome.agrees({"x": numbers(3, 1, 8, 1)})


def test_a_reshape_back_to_the_shape_that_was_goes_even_if_the_other_is_used() -> None:
    outcome = collapse(
        f"(float[n, 3, 4] x) => (float[n, 12] y, float[n, 3, 4] z) <{ints(s=[0, 12], t=[0, 3, 4])}>"
        " { y = Reshape (x, s) b = Reshape (y, t) z = Neg (b) }"
    )
    assert outcome.operators == ["Reshape", "Neg"]
    assert outcome.agrees({"x": numbers(2, 3, 4)})


@pytest.mark.parametrize(("attributes", "count"), [("", 2), ("<allowzero = 1>", 1)])
def test_reshape_to_a_shape_that_is_an_input(attributes: str, count: int) -> None:
    outcome = collapse(
        f"(float[3, 4] x, int64[2] s) => (float[a, b] y) <{ints(i=[12])}> "
        f"{{ a = Reshape (x, i) y = Reshape {attributes} (a, s) }}"
    )
    assert outcome.operators == ["Reshape"] * count
    assert outcome.agrees({"x": numbers(3, 4), "s": np.array([2, 6])})


def test_views_in_old_models() -> None:
    outcome = collapse(
        "(float[3, 1, 4, 1] x) => (float[3, 4] y, float[1, 3, 1, 1, 4, 1] z) "
        "{ a = Squeeze <axes = [3]> (x) y = Squeeze <axes = [1]> (a) "
        "b = Unsqueeze <axes = [0]> (x) z = Unsqueeze <axes = [2]> (b) }",
        opset=11,
    )
    assert outcome.operators == ["Squeeze", "Unsqueeze"]
    assert [list(n.attribute[0].ints) for n in outcome.after.graph.node] == [[1, 3], [0, 2]]
    assert outcome.agrees({"x": numbers(3, 1, 4, 1)})


@pytest.mark.parametrize("empty", [0, 2])
def test_views_of_nothing(empty: int) -> None:
    outcome = collapse(
        f"(float[n, 3, 4] x) => (float[a, b, c] y) <{ints(i=[-1, 12], o=[-1, 3, 4])}> "
        "{ a = Reshape (x, i) y = Reshape (a, o) }"
    )
    assert len(outcome.operators) <= 1 or outcome.operators == ["Identity"]
    assert outcome.agrees({"x": numbers(empty, 3, 4)})


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("perm = [1, 0, 2]", "perm = [0, 2, 1]", ["Transpose", "Neg"]),
        ("perm = [1, 2, 0]", "perm = [2, 0, 1]", ["Neg"]),
        ("", "", ["Neg"]),
        ("", "perm = [2, 1, 0]", ["Neg"]),
        ("perm = [1, 2, 0]", "", ["Transpose", "Neg"]),
    ],
)
def test_transposes(first: str, second: str, expected: list[str]) -> None:
    one, two = (f"<{text}>" if text else "" for text in (first, second))
    outcome = collapse(
        "(float[2, 3, 4] x) => (float[a, b, c] y) "
        f"{{ s = Transpose {one} (x) t = Transpose {two} (s) y = Neg (t) }}"
    )
    assert outcome.operators == expected
    assert outcome.agrees({"x": numbers(2, 3, 4)})


def test_transposes_with_an_output_between() -> None:
    outcome = collapse(
        "(float[2, 3, 4] x) => (float[a, b, c] y, float[d, e, f] z) "
        "{ z = Transpose <perm = [1, 0, 2]> (x) y = Transpose <perm = [0, 2, 1]> (z) }"
    )
    assert outcome.operators == ["Transpose", "Transpose"]
    assert "used elsewhere" in outcome.reasons


def test_what_a_view_tells_of_a_dimension_is_kept() -> None:
    outcome = collapse(
        f"(float[n] x) => (float[1] y, float[1] z) <{ints(zero=[0], s=[-1])}> "
        "{ a = Squeeze (x, zero) y = Reshape (a, s) z = Reshape (y, s) }"
    )
    assert outcome.operators == ["Reshape", "Reshape"]
    assert outcome.agrees({"x": numbers(1)})


def test_a_chain_is_seen_once_another_user_is_gone() -> None:
    outcome = collapse(
        f"(float[2] x) => (float[2] y) <{ints(minus=[-1], two=[2])}> "
        "{ a = Flatten (x) dead = Unsqueeze (a, two) y = Reshape (a, minus) }"
    )
    assert outcome.rewrites == {"reshape-of-reshape": 2}
    assert outcome.agrees({"x": numbers(2)})


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        # [n, 1, 4] to [n, 4, 1] moves nothing
        ("a = Transpose <perm = [0, 2, 1]> (x) y = Reshape (a, o)", ["Reshape"]),
        ("a = Reshape (x, i) y = Transpose <perm = [1, 0, 2]> (a)", ["Identity"]),
        ("a = Transpose <perm = [2, 1, 0]> (x) y = Reshape (a, o)", ["Transpose", "Reshape"]),
        (
            "a = Transpose <perm = [0, 2, 1]> (x) y = Transpose <perm = [2, 0, 1]> (a)",
            ["Transpose"],
        ),
    ],
)
def test_a_transpose_of_ones_is_a_reshape(nodes: str, left: list[str]) -> None:
    outcome = collapse(
        "(float[n, 1, 4] x) => (float[p, q, r] y) "
        f"<{ints(i=[1, -1, 4], o=[-1, 2, 2])}> {{ {nodes} }}"
    )
    assert outcome.operators == left
    for size in (1, 3):
        assert outcome.agrees({"x": numbers(size, 1, 4)})
