"""fuse-layout: Reshape, Transpose, Reshape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import Outcome, apply

from graphopt_passes.fuse_layout import FuseLayout

NO_CRD = "opset 10, or the target, has no DepthToSpace of mode CRD"


def fuse(graph: str, *, opset: int = 17, edit: Any = None) -> Outcome:
    ir_version = 8 if opset < 21 else 10
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {graph}'
    return apply(FuseLayout(), source, edit)


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(7).standard_normal(shape) * 4).astype(dtype)


def of_rank(rank: int) -> str:
    """The type of an output of which the test says nothing but the rank."""
    return "float" + (f"[{', '.join(f'd{axis}' for axis in range(rank))}]" if rank else "")


def shuffle(middle: str, perm: str, depth: int = 8, height: str = "3", width: str = "5") -> str:
    return (
        f"(float[n, {depth}, {height}, {width}] x) => (float[n, c, h2, w2] y) "
        f"<int64[6] a = {{{middle}}}, int64[4] b = {{0, 2, 6, 10}}> "
        f"{{ r = Reshape (x, a) t = Transpose <perm = [{perm}]> (r) y = Reshape (t, b) }}"
    )


@pytest.mark.parametrize(
    ("middle", "perm", "attributes"),
    [
        ("-1, 2, 2, 2, 3, 5", "0, 3, 4, 1, 5, 2", {"blocksize": 2}),
        ("-1, 2, 2, 2, 3, 5", "0, 1, 4, 2, 5, 3", {"blocksize": 2, "mode": b"CRD"}),
        ("0, 2, 2, 2, 3, -1", "0, 1, 4, 2, 5, 3", {"blocksize": 2, "mode": b"CRD"}),
    ],
)
def test_depth_to_space(middle: str, perm: str, attributes: dict[str, Any]) -> None:
    outcome = fuse(shuffle(middle, perm))
    assert outcome.operators == ["DepthToSpace"]
    assert {a.name: a.s or a.i for a in outcome.after.graph.node[0].attribute} == attributes
    assert outcome.agrees({"x": numbers(2, 8, 3, 5)})
    assert not outcome.initializers


@pytest.mark.parametrize(
    ("middle", "perm"),
    [
        ("-1, 2, 2, 2, 3, 5", "0, 3, 4, 2, 5, 1"),  # rows and columns of the block swapped
        ("-1, 2, 2, 2, 3, 5", "0, 1, 4, 3, 5, 2"),
        ("-1, 2, 2, 2, 5, 3", "0, 1, 4, 2, 5, 3"),  # height and width swapped
        ("-1, 1, 4, 2, 3, 5", "0, 1, 4, 2, 5, 3"),  # a block of 4 x 2
    ],
)
def test_what_is_no_depth_to_space(middle: str, perm: str) -> None:
    assert fuse(shuffle(middle, perm)).operators == ["Reshape", "Transpose", "Reshape"]


def test_pixel_shuffle_of_any_size() -> None:
    outcome = fuse(
        "(float[n, 8, h, w] x) => (float[n, 2, h2, w2] y) <int64[1] l = {2}, int64[2] bb = {2, 2}, "
        "int64[1] two = {2}, int64[1] c = {2}> { n = Shape <start = 0, end = 1> (x) "
        "hw = Shape <start = 2> (x) a = Concat <axis = 0> (n, l, bb, hw) r = Reshape (x, a) "
        "t = Transpose <perm = [0, 1, 4, 2, 5, 3]> (r) hw2 = Mul (hw, two) "
        "b = Concat <axis = 0> (n, c, hw2) y = Reshape (t, b) }"
    )
    assert outcome.operators == ["DepthToSpace"]
    assert outcome.agrees({"x": numbers(2, 8, 3, 5)})


@pytest.mark.parametrize(("opset", "mode", "fires"), [(10, "DCR", True), (10, "CRD", False)])
def test_modes_came_in_opset_11(opset: int, mode: str, fires: bool) -> None:
    perm = "0, 3, 4, 1, 5, 2" if mode == "DCR" else "0, 1, 4, 2, 5, 3"
    outcome = fuse(shuffle("-1, 2, 2, 2, 3, 5", perm), opset=opset)
    assert (outcome.operators == ["DepthToSpace"]) is fires
    assert outcome.declined == ([] if fires else [NO_CRD])


def test_integers_stay_as_they_are() -> None:
    graph = shuffle("-1, 2, 2, 2, 3, 5", "0, 1, 4, 2, 5, 3").replace("float[", "int8[")
    outcome = fuse(graph)
    assert outcome.operators == ["Reshape", "Transpose", "Reshape"]
    assert outcome.declined == ["runtimes have DepthToSpace for floating-point numbers only"]


def unshuffle(depth: int, perm: str) -> str:
    return (
        f"(float[n, {depth}, 6, 10] x) => (float[n, c, 3, 5] y) "
        f"<int64[6] a = {{-1, {depth}, 3, 2, 5, 2}}, int64[4] b = {{-1, {4 * depth}, 3, 5}}> "
        f"{{ r = Reshape (x, a) t = Transpose <perm = [{perm}]> (r) y = Reshape (t, b) }}"
    )


@pytest.mark.parametrize(
    ("depth", "perm", "fires"),
    [
        (3, "0, 3, 5, 1, 2, 4", True),
        (3, "0, 1, 3, 5, 2, 4", False),  # PixelUnshuffle of PyTorch: the channels come first
        (1, "0, 1, 3, 5, 2, 4", True),  # of a single channel it is the same
        (3, "0, 5, 3, 1, 2, 4", False),
    ],
)
def test_space_to_depth(depth: int, perm: str, fires: bool) -> None:
    outcome = fuse(unshuffle(depth, perm))
    assert (outcome.operators == ["SpaceToDepth"]) is fires
    assert outcome.agrees({"x": numbers(2, depth, 6, 10)})


def test_the_transpose_is_used_elsewhere() -> None:
    graph = shuffle("-1, 2, 2, 2, 3, 5", "0, 1, 4, 2, 5, 3").replace(
        "=> (", "=> (float[n, 2, 3, 2, 5, 2] t, "
    )
    assert fuse(graph).operators == ["Reshape", "Transpose", "Reshape"]


@pytest.mark.parametrize(
    ("merge", "perm", "split", "order"),
    [
        ("-1, 5, 6", "0, 2, 1", "2, 3, 6, 5", [0, 1, 3, 2]),
        ("2, 3, 30", "2, 0, 1", "5, 6, 2, 3", [2, 3, 0, 1]),
        ("6, 30", "1, 0", "5, 6, 2, 3", [2, 3, 0, 1]),
        ("2, 1, 3, 30", "3, 1, 2, 0", "5, 6, 3, 2", [2, 3, 1, 0]),
    ],
)
def test_transpose_of_merged_axes(merge: str, perm: str, split: str, order: list[int]) -> None:
    outcome = fuse(sandwich(merge, perm, split))
    assert outcome.operators == ["Transpose"]
    assert list(outcome.after.graph.node[0].attribute[0].ints) == order
    assert outcome.agrees({"x": numbers(2, 3, 5, 6)})


def sandwich(merge: str, perm: str, split: str, first: str = "2") -> str:
    ranks = [merge.count(",") + 1, split.count(",") + 1]
    return (
        f"(float[{first}, 3, 5, 6] x) => ({of_rank(ranks[1])} y) "
        f"<int64[{ranks[0]}] m = {{{merge}}}, int64[{ranks[1]}] s = {{{split}}}> "
        f"{{ r = Reshape (x, m) t = Transpose <perm = [{perm}]> (r) y = Reshape (t, s) }}"
    )


@pytest.mark.parametrize(
    ("merge", "perm", "split", "first", "shape"),
    [
        ("-1, 5, 6", "0, 2, 1", "3, 2, 6, 5", "2", [3, 2, 5, 6]),
        ("-1, 5, 6", "1, 0, 2", "5, 2, 3, 2, 3", "2", [2, 3, 5, 2, 3]),
        ("0, -1, 6", "2, 0, 1", "3, 2, -1, 15", "n", [0, 15, 3, 2]),
        ("-1, 10, 6", "1, 0, 2", "2, 5, -1, 6", "n", [-1, 2, 5, 6]),
    ],
)
def test_axes_are_taken_apart_ahead_of_the_transpose(
    merge: str, perm: str, split: str, first: str, shape: list[int]
) -> None:
    outcome = fuse(sandwich(merge, perm, split, first))
    assert outcome.operators == ["Reshape", "Transpose"]
    assert outcome.initializers[outcome.after.graph.node[0].input[1]].tolist() == shape
    assert outcome.agrees({"x": numbers(2, 3, 5, 6)})


@pytest.mark.parametrize("split", ["2, 15, 6", "12, 15", "4, 3, 3, 5"])
def test_axes_that_are_merged_after_the_transpose(split: str) -> None:
    outcome = fuse(sandwich("-1, 5, 6", "0, 2, 1", split))
    assert outcome.operators == ["Reshape", "Transpose", "Reshape"]


def test_sizes_that_a_constant_cannot_tell() -> None:
    outcome = fuse(
        "(float[n, 6, w] x) => (float[a, b, c, d] y) <int64[3] s = {0, 0, -1}, int64[1] t = {2}, "
        "int64[1] three = {3}> { r = Reshape (x, s) p = Transpose <perm = [2, 0, 1]> (r) "
        "n = Shape <start = 0, end = 1> (x) w = Shape <start = 2> (x) "
        "m = Concat <axis = 0> (w, n, t, three) y = Reshape (p, m) }"
    )
    assert outcome.operators.count("Reshape") == 2


def test_an_axis_of_size_one_on_the_way() -> None:
    """What nn.MultiheadAttention is exported as."""
    outcome = fuse(
        "(float[s, b, 3, 8] x) => (float[3, s, b, 8] y) <int64[1] zero = {0}, int64[1] three = {3}>"
        "{ u = Unsqueeze (x, zero) t = Transpose <perm = [3, 1, 2, 0, 4]> (u) "
        "y = Squeeze (t, three) }"
    )
    assert outcome.operators == ["Transpose"]
    assert outcome.agrees({"x": numbers(4, 2, 3, 8)})


@pytest.mark.parametrize(("after", "count"), [("Neg (u)", 3), ("Expand (u, wide)", 4)])
def test_heads_that_are_repeated_stay_as_runtimes_know_them(after: str, count: int) -> None:
    outcome = fuse(
        "(float[2, 5, 6] x) => (float[2, 3, a, 5, 2] y) <int64[4] s = {0, 0, 3, 2}, "
        "int64[1] two = {2}, int64[5] wide = {2, 3, 4, 5, 2}> { r = Reshape (x, s) "
        f"t = Transpose <perm = [0, 2, 1, 3]> (r) u = Unsqueeze (t, two) y = {after} }}"
    )
    assert len(outcome.operators) == count
    assert outcome.agrees({"x": numbers(2, 5, 6)})
