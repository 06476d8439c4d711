"""collapse-chains: Slice, Concat, Split, Gather."""

from __future__ import annotations

from typing import Any

import pytest
from rewriting import Outcome, apply, ints, numbers

from graphopt_passes.collapse_chains import CollapseChains

LAST = 2**63 - 1


def collapse(graph: str, *, opset: int = 17, ir_version: int = 8, edit: Any = None) -> Outcome:
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}'
    return apply(CollapseChains(), source, edit)


def cut(first: tuple[int, ...], second: tuple[int, ...], size: str) -> Outcome:
    """Two Slices, each of (start, end, axis, step)."""
    columns = {f"{name}{i}": [x] for i, row in enumerate((first, second))
               for name, x in zip("sead", row, strict=True)}  # fmt: skip
    return collapse(
        f"(float[{size}, 8] x) => (float[p, q] y) <{ints(**columns)}> "
        "{ m = Slice (x, s0, e0, a0, d0) y = Slice (m, s1, e1, a1, d1) }"
    )


@pytest.mark.parametrize("size", ["n", "20"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 9, 0, 1), (1, 3, 0, 1)),
        ((2, 9, 0, 1), (1, LAST, 0, 1)),
        ((2, LAST, 0, 3), (1, LAST, 0, 2)),
        ((2, LAST, 0, 3), (1, 4, 0, 2)),
        ((30, LAST, 0, 1), (0, 4, 0, 1)),
        ((5, 2, 0, 1), (0, 4, 0, 1)),
        ((0, LAST, 0, 1), (3, LAST, 0, 2)),
        ((2, 9, 0, 1), (1, 3, 1, 2)),
        ((2, -1, 0, 1), (1, -3, -1, 2)),
        ((2, -1, 1, 1), (1, -3, 1, 2)),
        ((-3, LAST, 1, 1), (-1, LAST, 1, 1)),
    ],
)
def test_slices(first: tuple[int, ...], second: tuple[int, ...], size: str) -> None:
    outcome = cut(first, second, size)
    assert outcome.operators == ["Slice"]
    for rows in (20,) if size == "20" else (0, 1, 5, 20):
        assert outcome.agrees({"x": numbers(rows, 8)})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, -1, 0, 1), (1, 3, 0, 1)),
        ((2, 9, 0, 1), (-2, LAST, 0, 1)),
        ((9, 2, 0, -1), (1, 3, 0, 1)),
        ((2, 9, 0, 1), (3, 0, 0, -1)),
    ],
)
def test_slices_that_stay(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    outcome = cut(first, second, "n")
    assert outcome.operators == ["Slice", "Slice"]
    assert bool(outcome.reasons) == (min(first[3], second[3]) > 0)


def test_slices_that_may_be_a_split_stay() -> None:
    constants = ints(z=[0], one=[1], two=[2], four=[4], eight=[8])
    outcome = collapse(
        f"(float[2, 8] x) => (float[1, 4] y, float[2, 4] w) <{constants}> "
        "{ m = Slice (x, z, four, one) y = Slice (m, z, one, z) w = Slice (x, four, eight, one) }"
    )
    assert outcome.operators == ["Slice", "Slice", "Slice"]


def test_slices_in_old_models() -> None:
    outcome = collapse(
        "(float[n, 8] x) => (float[p, q] y) "
        "{ a = Slice <starts = [1], ends = [9], axes = [0]> (x) "
        "y = Slice <starts = [1, 2], ends = [3, 5]> (a) }",
        opset=9,
        ir_version=3,
    )
    assert outcome.operators == ["Slice"]
    for rows in (1, 3, 20):
        assert outcome.agrees({"x": numbers(rows, 8)})


JOINED = "c = Concat <axis = 1> (u, v)"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (f"{JOINED} s = Slice (c, z, three, one) y = Neg (s)", ["Neg"]),
        (f"{JOINED} s = Slice (c, three, eight, one) y = Neg (s)", ["Neg"]),
        (f"{JOINED} s = Slice (c, three, last, minus) y = Neg (s)", ["Neg"]),
        (f"{JOINED} s = Slice (c, three, last, one, one) y = Neg (s)", ["Neg"]),
        (f"{JOINED} y = Slice (c, three, five, one)", ["Slice"]),
        (f"{JOINED} y = Slice (c, one, five, one)", ["Concat", "Slice"]),
        (f"{JOINED} y = Slice (c, three, eight, one, two)", ["Slice"]),
        (f"{JOINED} y = Slice (c, z, one, z)", ["Concat", "Slice"]),
        (f"{JOINED} t = Gather <axis = 1> (c, g) y = Neg (t)", ["Neg"]),
        (f"{JOINED} y = Gather <axis = -1> (c, h)", ["Gather"]),
        (f"{JOINED} y = Gather <axis = 1> (c, two)", ["Gather"]),
        (f"{JOINED} y = Gather <axis = 1> (c, i)", ["Concat", "Gather"]),
        (f"{JOINED} y = Gather <axis = 0> (c, z)", ["Concat", "Gather"]),
        (f"{JOINED} p, q = Split <axis = -1> (c, w) y = Exp (q)", ["Exp"]),
        (f"{JOINED} p, q = Split <axis = 1> (c, r) y = Exp (q)", ["Concat", "Split", "Exp"]),
        (f"{JOINED} d = Concat <axis = 1> (c, u) y = Neg (d)", ["Concat", "Neg"]),
        (f"{JOINED} d = Concat <axis = -1> (u, c) y = Neg (d)", ["Concat", "Neg"]),
        (f"{JOINED} y = Concat <axis = 0> (c, c)", ["Concat", "Concat"]),
        ("p, q = Split <axis = 1> (v, f) c = Concat <axis = 1> (p, q) y = Neg (c)", ["Neg"]),
        ("p, q = Split <axis = 1> (v, f) y = Concat <axis = 1> (q, p)", ["Split", "Concat"]),
        ("p, q = Split <axis = 1> (v, k) y = Concat <axis = 0> (p, p)", ["Split", "Concat"]),
        ("a = Gather <axis = 1> (v, h) y = Gather <axis = 1> (a, minus)", ["Gather"]),
        ("a = Gather <axis = 1> (v, g) y = Gather <axis = 0> (a, z)", ["Gather", "Gather"]),
    ],
)
def test_joins(nodes: str, expected: list[str]) -> None:
    constants = ints(
        z=[0], one=[1], two=[2], three=[3], five=[5], eight=[8], last=[LAST], minus=[-1], w=[3, 5],
        r=[4, 4], f=[2, 3], k=[2, 3], g=[0, 1, 2], h=[4, 3], i=[0, 4],
    )  # fmt: skip
    outcome = collapse(
        f"(float[2, 3] u, float[2, 5] v) => (float[a, b] y) <{constants}> {{ {nodes} }}"
    )
    assert outcome.operators == expected
    assert outcome.agrees({"u": numbers(2, 3), "v": numbers(2, 5)})


def test_slice_up_to_a_size_that_is_not_known() -> None:
    outcome = collapse(
        f"(float[n, 4] u, float[m, 4] v) => (float[n, 4] y, float[m, 4] w) "
        f"<{ints(z=[0], last=[LAST])}> "
        "{ c = Concat <axis = 0> (u, v) n = Shape <end = 1> (u) s = Slice (c, z, n, z) "
        "t = Slice (c, n, last, z) y = Neg (s) w = Neg (t) }"
    )
    assert outcome.operators == ["Neg", "Neg"]
    assert outcome.agrees({"u": numbers(3, 4), "v": numbers(2, 4)})


def test_a_concat_that_is_used_elsewhere_stays() -> None:
    outcome = collapse(
        "(float[2, 3] u, float[2, 5] v) => (float[2, 8] c, float[2, 11] y) "
        "{ c = Concat <axis = 1> (u, v) y = Concat <axis = 1> (c, u) }"
    )
    assert outcome.operators == ["Concat", "Concat"]
    assert outcome.agrees({"u": numbers(2, 3), "v": numbers(2, 5)})


def test_a_concat_of_a_split_of_an_input_into_an_output() -> None:
    outcome = collapse(
        "(float[2, 6] x) => (float[2, 6] y) "
        "{ p, q = Split <axis = 1> (x) y = Concat <axis = 1> (p, q) }"
    )
    assert outcome.operators == ["Identity"]
    assert outcome.agrees({"x": numbers(2, 6)})


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ([2, 3, 4], 0, ["Gather"]),
        ([5, 2, 3], 1, ["Gather"]),
        ([1, 5, 6], 1, ["Gather", "Reshape"]),
        ([6, 2, 2], 0, ["Gather", "Reshape"]),
        ([3, 2, -1], 0, ["Gather"]),
    ],
)
def test_reshape_of_gather(shape: list[int], axis: int, expected: list[str]) -> None:
    outcome = collapse(
        f"(float[5, 4] x) => (float[] y) <{ints(i=[3, 1, 0, 2, -1, 1], s=shape)}> "
        f"{{ a = Gather <axis = {axis}> (x, i) y = Reshape (a, s) }}",
        edit=lambda model: _shape(model, shape, axis),
    )
    assert outcome.operators == expected
    assert outcome.agrees({"x": numbers(5, 4)})


def _shape(model: Any, shape: list[int], axis: int) -> None:
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for number in range(len(shape)):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = f"y{number}"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("a = Unsqueeze (w, z) y = Add (x, a)", ["Add"]),
        ("a = Unsqueeze (w, z) y = Sub (a, x)", ["Sub"]),
        ("a = Reshape (w, s) y = Mul (a, x)", ["Mul"]),
        ("a = Unsqueeze (w, two) y = Add (a, v)", ["Unsqueeze", "Add"]),
        ("a = Unsqueeze (w, z) y = Add (a, k)", ["Unsqueeze", "Add"]),
        ("a = Unsqueeze (w, z) y = Max (x, a)", ["Unsqueeze", "Max"]),
        ("a = Unsqueeze (w, z) y = Add (a, w)", ["Unsqueeze", "Add"]),
    ],
)
def test_leading_axes(nodes: str, expected: list[str]) -> None:
    outcome = collapse(
        "(float[3, 4, 4] x, float[4, 4] w, float[4, 4, 1] v) => (float[a, 4, b] y) "
        f"<{ints(z=[0], two=[2], s=[1, 4, 4])}, "
        f"float[1, 1, 1] k = {{2}}> {{ {nodes} }}"
    )
    assert outcome.operators == expected
    assert outcome.agrees({"x": numbers(3, 4, 4), "w": numbers(4, 4), "v": numbers(4, 4, 1)})


@pytest.mark.parametrize(
    ("more", "operands", "expected"),
    [
        ("", "p, q", ["Relu", "Neg"]),
        ("", "p, p", ["Relu", "Neg", "Concat", "Split"]),
        ("", "x, q", ["Relu", "Neg", "Concat", "Split"]),
        (", float[2, 3] p", "p, q", ["Relu", "Neg", "Concat", "Split"]),
    ],
)
def test_parts_that_are_outputs(more: str, operands: str, expected: list[str]) -> None:
    """All of them become other values or none does: a Split with one nameless output is invalid."""
    outcome = collapse(
        f"(float[2, 3] x) => (float[2, 3] a, float[2, 3] y{more}) {{ p = Relu (x) q = Neg (x) "
        f"c = Concat <axis = 1> ({operands}) a, y = Split <axis = 1> (c) }}",
        opset=13,
    )
    assert outcome.operators == expected
    assert ("of the graph" in outcome.reasons) == ("Split" in expected)
    assert outcome.agrees({"x": numbers(2, 3)})


@pytest.mark.parametrize("index", ["int64 i = {4}", "int64[1] i = {-1}", "int64[1, 2] i = {3, 4}"])
def test_gather_of_concat_keeps_the_rank_of_its_indices(index: str) -> None:
    rank = index.count(",") + 1 if "[" in index else 0
    outcome = collapse(
        f"(float[3, 2] x, float[2, 2] z) => (float[{', '.join('pqr'[: rank + 1])}] y) "
        f"<{index}> {{ c = Concat <axis = 0> (x, z) y = Gather (c, i) }}"
    )
    assert outcome.operators == ["Gather"]
    assert outcome.agrees({"x": numbers(3, 2), "z": numbers(2, 2)})
