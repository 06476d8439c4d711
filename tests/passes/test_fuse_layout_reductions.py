"""fuse-layout: reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import Outcome, apply, held, run

from graphopt_passes.fuse_layout import FuseLayout


def fuse(graph: str, *, opset: int = 17, edit: Any = None) -> Outcome:
    ir_version = 8 if opset < 21 else 10
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}'
    return apply(FuseLayout(), source, edit)


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(7).standard_normal(shape) * 4).astype(dtype)


def of_rank(rank: int) -> str:
    """The type of an output of which the test says nothing but the rank."""
    return "float" + (f"[{', '.join(f'd{axis}' for axis in range(rank))}]" if rank else "")


REDUCTIONS = ["ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp", "ReduceProd"]


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("squeezes", [True, False])
def test_squeeze_and_unsqueeze_of_a_reduction(reduction: str, opset: int, squeezes: bool) -> None:
    def axes(since: int) -> tuple[str, str]:
        return (", axes = [1, 3]", "") if opset < since else ("", ", i")

    attribute, value = axes(13 if reduction == "ReduceSum" else 18)
    named, given = axes(13)
    after, keepdims, shape = ("Squeeze", 1, "2, 4") if squeezes else ("Unsqueeze", 0, "2, 1, 4, 1")
    outcome = fuse(
        f"(float[2, 3, 4, 5] x) => (float[{shape}] y) <int64[2] i = {{1, 3}}> "
        f"{{ r = {reduction} <keepdims = {keepdims}{attribute}> (x{value}) "
        f"y = {after} <{named.strip(', ')}> (r{given}) }}".replace("<>", ""),
        opset=opset,
    )
    assert outcome.operators == [reduction]
    assert outcome.agrees({"x": np.abs(numbers(2, 3, 4, 5))})


@pytest.mark.parametrize("selection", ["ArgMax", "ArgMin"])
def test_squeeze_of_a_selection(selection: str) -> None:
    outcome = fuse(
        "(float[2, 3, 4] x) => (int64[2, 4] y) <int64[1] i = {-2}> "
        f"{{ r = {selection} <axis = 1, select_last_index = 1> (x) y = Squeeze (r, i) }}"
    )
    assert outcome.operators == [selection]
    assert outcome.agrees({"x": np.round(numbers(2, 3, 4) / 4)})


@pytest.mark.parametrize(
    ("after", "shape"),
    [
        ("Flatten (r)", "n, 3"),
        ("Reshape (r, s)", "n, 3"),
        ("Squeeze (r, i)", "n, 3"),
    ],
)
@pytest.mark.parametrize(
    ("reduction", "size", "operators"),
    [
        ("ReduceMean <axes = [2, 3]>", "h, w", ["ReduceMean"]),
        ("ReduceMax <axes = [2, 3]>", "4, 5", ["ReduceMax"]),
        ("ReduceMean <axes = [2, 3]>", "4, 5", ["GlobalAveragePool", ""]),  # faster than one node
        ("GlobalAveragePool", "h, w", ["GlobalAveragePool", ""]),
    ],
)
def test_a_head_of_a_classifier(
    reduction: str, size: str, operators: list[str], after: str, shape: str
) -> None:
    outcome = fuse(
        f"(float[n, 3, {size}] x) => (float[{shape}] y) <int64[2] i = {{2, 3}}, "
        f"int64[2] s = {{0, -1}}> {{ r = {reduction} (x) y = {after} }}"
    )
    assert outcome.operators == [name or after.split()[0] for name in operators]
    assert outcome.agrees({"x": numbers(2, 3, 4, 5)}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("graph", "operators"),
    [
        (  # fewer axes than were reduced
            "(float[2, 3, 4] x) => (float[2, 1] y) <int64[1] i = {2}> "
            "{ r = ReduceMax <axes = [1, 2]> (x) y = Squeeze (r, i) }",
            ["ReduceMax", "Squeeze"],
        ),
        (  # without axes, all of size one: of the others as well
            "(float[1, 3, 4] x) => (float[3] y) { r = ReduceMax <axes = [2]> (x) y = Squeeze (r) }",
            ["ReduceMax", "Squeeze"],
        ),
        (  # which are of size one is not known
            "(float[n, 3, 4] x) => (float[m] y) { r = ReduceMax <axes = [2]> (x) y = Squeeze (r) }",
            ["ReduceMax", "Squeeze"],
        ),
        (  # one into another place
            "(float[2, 3, 4] x) => (float[1, 2, 4] y) <int64[1] i = {0}> "
            "{ r = ReduceMax <axes = [1], keepdims = 0> (x) y = Unsqueeze (r, i) }",
            ["ReduceMax", "Unsqueeze"],
        ),
        (  # Flatten of an image, not of a pixel
            "(float[2, 3, 4, 5] x) => (float[2, 12] y) { r = ReduceMax <axes = [3]> (x) "
            "y = Flatten (r) }",
            ["ReduceMax", "Flatten"],
        ),
    ],
)
def test_shapes_that_do_not_fit(graph: str, operators: list[str]) -> None:
    assert fuse(graph).operators == operators


def test_a_reduction_of_no_axes_is_left_alone() -> None:
    outcome = fuse(
        "(float[1, 3] x) => (float[3] y) <int64[1] i = {0}> "
        "{ r = ReduceSum <noop_with_empty_axes = 1> (x) y = Squeeze (r, i) }"
    )
    assert outcome.operators == ["ReduceSum", "Squeeze"]


def test_a_reduction_that_is_used_elsewhere() -> None:
    outcome = fuse(
        "(float[2, 3] x) => (float[2] y, float[2, 1] z) <int64[1] i = {1}> "
        "{ r = ReduceMax <axes = [1]> (x) y = Squeeze (r, i) z = Neg (r) }"
    )
    assert outcome.operators == ["ReduceMax", "Squeeze", "Neg"]
    assert outcome.declined == ["the result of ReduceMax is used elsewhere as well"]


@pytest.mark.parametrize(
    ("first", "second", "keepdims", "axes"),
    [
        ([1], [0], 0, [0, 1]),
        ([0, 2], [1], 0, [0, 2, 3]),
        ([1], [3], 1, [1, 3]),
        ([3], [-1], 0, [2, 3]),
    ],
)
@pytest.mark.parametrize("reduction", ["ReduceMax", "ReduceMean", "ReduceMin", "ReduceL1"])
def test_merged_reductions(
    reduction: str, first: list[int], second: list[int], keepdims: int, axes: list[int]
) -> None:
    k = f"keepdims = {keepdims}"
    outcome = fuse(
        f"(float[2, 3, 4, 5] x) => ({of_rank(4 if keepdims else 4 - len(axes))} y) "
        f"{{ r = {reduction} <axes = {first}, {k}> (x) "
        f"y = {reduction} <axes = {second}, {k}> (r) }}",
    )
    assert outcome.operators == [reduction]
    assert list(outcome.after.graph.node[0].attribute[0].ints) == axes
    assert outcome.agrees({"x": numbers(2, 3, 4, 5)}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "rank"),
    [
        ("ReduceMax <axes = [1]>", "ReduceMax <axes = [0], keepdims = 0>", 1),
        ("ReduceMax <axes = [1]>", "ReduceMin <axes = [0]>", 2),
        ("ReduceSumSquare <axes = [1]>", "ReduceSumSquare <axes = [0]>", 2),
    ],
)
def test_reductions_that_do_not_merge(first: str, second: str, rank: int) -> None:
    outcome = fuse(
        f"(float[2, 3] x) => ({of_rank(rank)} y) {{ r = {first} (x) y = {second} (r) }}",
    )
    assert len(outcome.operators) == 2


def test_a_mean_of_integers_is_rounded_each_time() -> None:
    outcome = fuse(
        "(int32[2, 3] x) => (int32[1, 1] y) { r = ReduceMean <axes = [1]> (x) "
        "y = ReduceMean <axes = [0]> (r) }"
    )
    assert outcome.operators == ["ReduceMean", "ReduceMean"]
    assert outcome.declined == ["a mean of integers is rounded"]


@pytest.mark.parametrize("by", ["Div (s, c)", "Mul (s, q)", "Mul (q, s)"])
def test_mean_of_a_sum(by: str) -> None:
    outcome = fuse(
        "(float[2, 3, 4] x) => (float[2, 1, 1] y) <int64[2] i = {1, 2}, float c = {12}, "
        f"float[1] q = {{0.083333336}}> {{ s = ReduceSum (x, i) y = {by} }}"
    )
    assert outcome.operators == ["ReduceMean"]
    assert outcome.agrees({"x": numbers(2, 3, 4)}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("type_", "by", "reasons"),
    [
        ("float", "Div (s, d)", []),  # by another number
        ("float", "Div (d, s)", []),
        ("float", "Div (s, v)", []),  # by numbers
        ("int32", "Div (s, c)", []),
        ("float16", "Div (s, c)", ["a sum that overflows float16 has a mean that does not"]),
    ],
)
def test_what_is_no_mean(type_: str, by: str, reasons: list[str]) -> None:
    dtype = {"float": np.float32, "int32": np.int32, "float16": np.float16}[type_]

    def edit(model: Any) -> None:
        for name, data in (("c", 12), ("d", 11), ("v", [12, 12])):
            held(name, np.array(data, dtype))(model)

    outcome = fuse(
        f"({type_}[2, 3, 4] x) => ({type_}[a] y) <int64[2] i = {{1, 2}}> "
        f"{{ s = ReduceSum <keepdims = 0> (x, i) y = {by} }}",
        edit=edit,
    )
    assert outcome.operators == ["ReduceSum", "Div"]
    assert outcome.declined == reasons


@pytest.mark.parametrize(
    ("shape", "axes", "operator"),
    [
        ("n, 3, 4, 5", "2, 3", "GlobalAveragePool"),
        ("n, 3, 4, 5, 6", "2, -1, 3", "GlobalAveragePool"),
        ("n, 3, 4", "2", "ReduceMean"),  # features of a sequence
        ("n, 3, 4, 5", "1, 2", "ReduceMean"),
        ("n, 3, h, 5", "2, 3", "ReduceMean"),  # a height of 0 has a mean, and no pooling
        ("n, c, 4, 5", "2, 3", "ReduceMean"),  # nor have no channels any
    ],
)
def test_global_average_pool(shape: str, axes: str, operator: str) -> None:
    outcome = fuse(
        f"(float[{shape}] x) => ({of_rank(shape.count(',') + 1)} y) "
        f"{{ y = ReduceMean <axes = [{axes}]> (x) }}",
    )
    assert outcome.operators == [operator]
    size = [2, 3, 4, 5, 6][: shape.count(",") + 1]
    assert outcome.agrees({"x": numbers(*size)}, rtol=1e-5, atol=1e-6)


def test_the_mean_of_a_normalization_stays() -> None:
    outcome = fuse(
        "(float[1, 3, 4, 5] x) => (float[1, 3, 4, 5] y) { m = ReduceMean <axes = [2, 3]> (x) "
        "y = Sub (x, m) }"
    )
    assert outcome.operators == ["ReduceMean", "Sub"]


def test_a_global_average_of_doubles_stays() -> None:
    outcome = fuse(
        "(double[1, 3, 4, 5] x) => (double[1, 3, 1, 1] y) { y = ReduceMean <axes = [2, 3]> (x) }"
    )
    assert outcome.operators == ["ReduceMean"]
    assert run(outcome.after, {"x": numbers(1, 3, 4, 5, dtype=np.float64)})[0].dtype == np.float64
