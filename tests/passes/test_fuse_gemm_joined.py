"""fuse-gemm: products of products, Convs of Convs, and several of one input."""

from __future__ import annotations

import numpy as np
import pytest
from norms import IMAGE, head, weight
from rewriting import Outcome, apply, both, held, run

from graphopt_passes.fuse_gemm import FuseGemm

RNG = np.random.default_rng(0)
MATRIX = "float[N, 6] x"


def fuse(
    body: str, *edits: object, inputs: str = MATRIX, free: str = "A, B", merge: bool = False,
    more: str = "", opset: int = 17,
) -> Outcome:  # fmt: skip
    text = f"{head(opset)} g ({inputs}) => (float[{free}] y{more}) {{ {body} }}"
    return apply(FuseGemm(merge_parallel=merge), text, both(*edits))  # type: ignore[arg-type]


def agrees(outcome: Outcome, *shape: int) -> bool:
    """Within 2e-6 of the peak, in ONNX Runtime: two roundings become one."""
    feed = {"x": RNG.standard_normal(shape).astype(np.float32)}
    pairs = zip(run(outcome.before, feed), run(outcome.after, feed), strict=True)
    return all(np.abs(a - b).max() <= 2e-6 * np.abs(b).max() for b, a in pairs)


V, W, C, K = weight(6, 8, name="v"), weight(8, 4), weight(8, name="c"), weight(4, name="k")


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("p = MatMul (x, v) \n y = MatMul (p, w)", ["MatMul"]),
        ("p = MatMul (x, v) \n q = Add (c, p) \n y = MatMul (q, w)", ["MatMul", "Add"]),
        ("p = Gemm (x, v, c) \n y = Gemm (p, w, k)", ["Gemm"]),
        ("p = Gemm <beta = 0.5> (x, v, c) \n y = Gemm <transB = 1> (p, t)", ["Gemm"]),
        ("p = MatMul (x, v) \n y = Gemm <beta = 2.0> (p, w, k)", ["Gemm"]),
    ],
)
def test_products_of_products(body: str, left: list[str]) -> None:
    outcome = fuse(body, V, W, C, K, weight(4, 8, name="t"), inputs="float[3, 6] x")
    if left == ["MatMul", "Add"]:
        left = ["Gemm"]  # of matrices
    assert outcome.operators == left
    assert agrees(outcome, 3, 6)


@pytest.mark.parametrize("x", [(2, 3, 6), (6,)])
def test_products_of_other_ranks(x: tuple[int, ...]) -> None:
    body = "p = MatMul (x, v) \n q = Add (p, c) \n r = MatMul (q, w) \n y = Add (r, k)"
    free = "A, B, C" if len(x) == 3 else "A"
    dims = ", ".join(map(str, x))
    outcome = fuse(body, V, W, C, K, inputs=f"float[{dims}] x", free=free)
    assert outcome.operators == ["MatMul", "Add", "Add"]
    assert agrees(outcome, *x)


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ("p = MatMul (x, a) \n y = MatMul (p, b)", "", "would be larger than both together"),
        ("p = MatMul (x, v) \n y = MatMul (p, w) \n z = Abs (p)", ", float[A, D] z", ""),
        ("p = MatMul (x, v) \n q = Relu (p) \n y = MatMul (q, w)", "", ""),
        ("p = Gemm <alpha = 2.0> (x, v) \n y = MatMul (p, w)", "", ""),
    ],
)
def test_products_that_stay(body: str, more: str, reason: str) -> None:
    outcome = fuse(body, V, W, weight(6, 1, name="a"), weight(1, 6, name="b"), more=more)
    assert not outcome.result.modified
    assert reason in outcome.reasons


def test_products_that_cancel() -> None:
    ahead = np.full((2, 2), 1e4, np.float32)
    behind = np.array([[1e4, 1e4], [-1e4, -1e4]], np.float32) + np.float32(1e-3)
    outcome = fuse(
        "p = MatMul (x, v) \n y = MatMul (p, w)",
        held("v", ahead),
        held("w", behind),
        inputs="float[3, 2] x",
    )
    assert not outcome.result.modified
    assert "much smaller than they are" in outcome.reasons


# --- Convs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "shapes"),
    [
        ("Conv <pads = [1, 1, 1, 1]> (x, v)", "Conv (p, w)", ((8, 3, 3, 3), (4, 8, 1, 1))),
        ("Conv <strides = [2, 1]> (x, v, c)", "Conv <strides = [2, 2]> (p, w, k)",
         ((8, 3, 3, 3), (4, 8, 1, 1))),
        ("Conv (x, v)", "Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (p, w, k)",
         ((8, 3, 1, 1), (4, 8, 3, 3))),
        ("Conv (x, v, c)", "Conv (p, w)", ((8, 3, 1, 1), (4, 8, 3, 3))),
        ('Conv <auto_pad = "SAME_UPPER"> (x, v, c)', "Conv (p, w)", ((8, 3, 3, 3), (4, 8, 1, 1))),
    ],
)  # fmt: skip
def test_convs_of_convs(one: str, two: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    outcome = fuse(
        f"p = {one} \n y = {two}",
        weight(*shapes[0], name="v"), weight(*shapes[1]), C, K,
        inputs=IMAGE, free="A, B, C, D",
    )  # fmt: skip
    assert outcome.operators == ["Conv"]
    assert agrees(outcome, 2, 3, 8, 8)


@pytest.mark.parametrize(
    ("one", "two", "shapes", "reason"),
    [
        ("Conv (x, v, c)", "Conv <pads = [1, 1, 1, 1]> (p, w)", ((8, 3, 1, 1), (4, 8, 3, 3)),
         "does not reach its padding"),
        ("Conv (x, v)", "Conv (p, w)", ((1, 3, 3, 3), (8, 1, 1, 1)), "would be larger"),
        ("Conv (x, v)", "Conv (p, w)", ((8, 3, 3, 3), (4, 8, 3, 3)), ""),
        ("Conv (x, v)", "Conv <pads = [1, 1, 1, 1]> (p, w)", ((8, 3, 3, 3), (4, 8, 1, 1)), ""),
        ("Conv <strides = [2, 2]> (x, v)", "Conv (p, w)", ((8, 3, 1, 1), (4, 8, 3, 3)), ""),
        ("Conv (x, v)", "Conv <group = 2> (p, w)", ((8, 3, 3, 3), (4, 4, 1, 1)), ""),
        ('Conv <auto_pad = "SAME_UPPER"> (x, v)', "Conv <strides = [2, 2]> (p, w)",
         ((8, 3, 3, 3), (4, 8, 1, 1)), ""),
    ],
)  # fmt: skip
def test_convs_that_stay(
    one: str, two: str, shapes: tuple[tuple[int, ...], ...], reason: str
) -> None:
    outcome = fuse(
        f"p = {one} \n y = {two}",
        weight(*shapes[0], name="v"), weight(*shapes[1]), C,
        inputs=IMAGE, free="A, B, C, D",
    )  # fmt: skip
    assert not outcome.result.modified
    assert reason in outcome.reasons


# --- side by side ---------------------------------------------------------------------------------

QKV = (weight(6, 4, name="q"), weight(6, 5, name="k"), weight(6, 3, name="v"))
BIASES = (weight(4, name="a"), weight(5, name="b"), weight(3, name="c"))


def outputs(rank: int) -> str:
    free = ", ".join("MNO"[:rank])
    return f", float[{free}] z, float[{free}] u"


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("y = MatMul (x, q) \n z = MatMul (x, k) \n u = MatMul (x, v)", ["MatMul", "Split"]),
        (
            "l = MatMul (x, q) \n y = Add (l, a) \n m = MatMul (x, k) \n z = Add (b, m) "
            "\n u = MatMul (x, v)",
            ["MatMul", "Add", "Split"],
        ),
    ],
)
def test_products_side_by_side(opset: int, body: str, left: list[str]) -> None:
    outcome = fuse(
        body, *QKV, *BIASES, inputs="float[2, 3, 6] x", free="A, B, C",
        more=outputs(3), merge=True, opset=opset,
    )  # fmt: skip
    assert outcome.operators == left
    assert agrees(outcome, 2, 3, 6)


def test_gemms_side_by_side() -> None:
    body = "y = Gemm (x, q, a) \n z = Gemm (x, k) \n r = Gemm (x, v, c) \n u = Relu (r)"
    outcome = fuse(body, *QKV, *BIASES, merge=True, more=outputs(2))
    assert outcome.operators == ["Gemm", "Split", "Relu"]
    assert agrees(outcome, 3, 6)


def test_convs_side_by_side() -> None:
    body = "\n".join(f"{o} = Conv <pads = [1, 1, 1, 1]> (x, {i})" for o, i in ("yq", "zk", "uv"))
    shapes = ((n, 3, 3, 3) for n in (4, 5, 2))
    outcome = fuse(
        body, *(weight(*s, name=n) for s, n in zip(shapes, "qkv", strict=True)),
        inputs=IMAGE, free="A, B, C, D", merge=True,
        more=", float[A, E, C, D] z, float[A, F, C, D] u",
    )  # fmt: skip
    assert outcome.operators == ["Conv", "Split"]
    assert agrees(outcome, 2, 3, 8, 8)


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul (x, q) \n z = MatMul (x, k) \n u = Abs (z)",
        "y = Gemm (x, q) \n z = Gemm <alpha = 0.5> (x, k) \n u = Gemm <alpha = 2.0> (x, v)",
        "y = MatMul (x, q) \n z = MatMul (x, q) \n u = MatMul (x, q)",
        "y = MatMul (x, q) \n z = Gemm (x, k) \n u = Gemm (x, v)",
    ],
)
def test_what_is_not_merged(body: str) -> None:
    outcome = fuse(body, *QKV, merge=True, more=outputs(2))
    assert not outcome.result.modified


def test_nothing_is_merged_unless_asked_for() -> None:
    body = "y = MatMul (x, q) \n z = MatMul (x, k) \n u = MatMul (x, v)"
    assert not fuse(body, *QKV, more=outputs(2)).result.modified
