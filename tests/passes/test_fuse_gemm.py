"""fuse-gemm: biases, transposes and factors of products, and Reshapes around them."""

from __future__ import annotations

import numpy as np
import pytest
from norms import close, head, weight
from rewriting import Outcome, apply, both, run

from graphopt_passes.fuse_gemm import FuseGemm

RNG = np.random.default_rng(0)
MATRIX = "float[N, 6] x"


def fuse(
    body: str, *edits: object, inputs: str = MATRIX, free: str = "A, B", opset: int = 17
) -> Outcome:
    """A model with weights w [6, 4], k [4] and whatever `edits` add."""
    text = f"{head(opset)} g ({inputs}) => (float[{free}] y) {{ {body} }}"
    return apply(FuseGemm(), text, both(weight(6, 4), weight(4, name="k"), *edits))  # type: ignore[arg-type]


def agrees(outcome: Outcome, **shapes: tuple[int, ...]) -> bool:
    """Within 1e-6 of the peak, in ONNX Runtime."""
    feed = {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    pairs = zip(run(outcome.before, feed), run(outcome.after, feed), strict=True)
    return all(np.abs(a - b).max() <= 1e-6 * np.abs(b).max() for b, a in pairs)


# --- biases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "bias"),
    [
        ("p = MatMul (x, w) \n y = Add (p, c)", (4,)),
        ("p = MatMul (x, w) \n y = Add (c, p)", (1, 4)),
        ("p = MatMul (x, w) \n y = Add (p, c)", ()),
        ("p = MatMul (x, w) \n y = Add (p, c)", (1,)),
        ("p = MatMul (x, w) \n y = Sub (p, c)", (4,)),
        ("p = MatMul (x, w) \n y = Sub (p, c)", ()),
        ("p = Gemm (x, w) \n y = Add (p, c)", (4,)),
        ("p = Gemm <alpha = 0.5> (x, w) \n y = Add (c, p)", (1, 4)),
    ],
)
def test_biases(body: str, bias: tuple[int, ...]) -> None:
    outcome = fuse(body, weight(*bias, name="c"))
    assert outcome.operators == ["Gemm"]
    assert outcome.rewrites == {"product-bias": 1}
    assert close(outcome, 3, 6)


def test_a_bias_for_each_element_and_one_that_is_computed() -> None:
    outcome = fuse(
        "p = MatMul (x, w) \n y = Add (p, c)", weight(3, 4, name="c"), inputs="float[3, 6] x"
    )
    assert outcome.operators == ["Gemm"]
    assert close(outcome, 3, 6)
    computed = fuse(
        "b = Abs (c) \n p = MatMul (x, w) \n y = Add (p, b)", inputs=f"{MATRIX}, float[4] c"
    )
    assert computed.operators == ["Abs", "Gemm"]
    assert agrees(computed, x=(3, 6), c=(4,))


@pytest.mark.parametrize(
    ("body", "inputs", "free"),
    [
        ("p = MatMul (x, w) \n y = Add (p, k)", "float[2, 3, 6] x", "A, B, C"),
        ("p = MatMul (x, w) \n y = Add (p, k)", "float[6] x", "A"),
        (
            "r = Reshape (x, s) \n p = MatMul (r, w) \n y = Add (p, k)",
            f"{MATRIX}, int64[R] s",
            "A, B",
        ),
        ("p = MatMul (x, w) \n y = Add (p, z)", f"{MATRIX}, float[N, 4] z", "A, B"),
        ("p = MatMul (x, w) \n y = Sub (k, p)", MATRIX, "A, B"),
        ("p = Gemm (x, w, k) \n y = Add (p, k)", MATRIX, "A, B"),
    ],
)
def test_additions_that_stay(body: str, inputs: str, free: str) -> None:
    assert not fuse(body, inputs=inputs, free=free).result.modified


@pytest.mark.parametrize(
    ("body", "bias", "more", "reason"),
    [
        ("y = Add (p, c)", (3, 4), "", "would broadcast the product"),
        ("y = Add (p, c)", (1, 1, 4), "", "would broadcast the product"),
        ("y = Add (p, c) \n z = Abs (p)", (4,), ", float[A, B] z", "used elsewhere too"),
        ("y = Add (p, c)", (4,), ", float[A, B] p", "used elsewhere too, or an output"),
    ],
)
def test_near_misses(body: str, bias: tuple[int, ...], more: str, reason: str) -> None:
    free = "A, B, C" if len(bias) == 3 else "A, B"
    text = (
        f"{head()} g (float[1, 6] x) => (float[{free}] y{more}) {{ p = MatMul (x, w) \n {body} }}"
    )
    outcome = apply(FuseGemm(), text, both(weight(6, 4), weight(*bias, name="c")))
    assert not outcome.result.modified
    assert reason in outcome.reasons


@pytest.mark.parametrize("kind", ["int32", "uint64"])
def test_integers_stay(kind: str) -> None:
    text = (
        f"{head()} g ({kind}[2, 2] x) => ({kind}[2, 2] y) <{kind}[2, 2] w = {{1, 2, 3, 4}}, "
        f"{kind}[2] b = {{5, 6}}> {{ p = MatMul (x, w) \n y = Add (p, b) }}"
    )
    assert not apply(FuseGemm(), text).result.modified


def test_an_overridable_bias_still_overrides() -> None:
    text = (
        f"{head()} g ({MATRIX}, float[4] c = {{1, 2, 3, 4}}) => (float[A, B] y) "
        "{ p = MatMul (x, w) \n y = Add (p, c) }"
    )
    outcome = apply(FuseGemm(), text, weight(6, 4))
    assert outcome.operators == ["Gemm"]
    assert agrees(outcome, x=(3, 6), c=(4,))


# --- transposes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "inputs", "shapes"),
    [
        ("t = Transpose (x) \n y = Gemm (t, w)", "float[6, N] x", {"x": (6, 3)}),
        ("t = Transpose <perm = [1, 0]> (x) \n y = Gemm <transA = 1> (t, w)", MATRIX,
         {"x": (3, 6)}),
        ("t = Transpose (z) \n y = Gemm <alpha = 0.5> (x, t)", f"{MATRIX}, float[4, 6] z",
         {"x": (3, 6), "z": (4, 6)}),
        ("t = Transpose (z) \n y = MatMul (x, t)", f"{MATRIX}, float[4, 6] z",
         {"x": (3, 6), "z": (4, 6)}),
        ("s = Transpose (x) \n t = Transpose (z) \n p = MatMul (s, t) \n y = Add (p, k)",
         "float[6, N] x, float[4, 6] z", {"x": (6, 3), "z": (4, 6)}),
    ],
)  # fmt: skip
def test_transposed_operands(body: str, inputs: str, shapes: dict[str, tuple[int, ...]]) -> None:
    outcome = fuse(body, inputs=inputs)
    assert outcome.operators == ["Gemm"]
    assert agrees(outcome, **shapes)


@pytest.mark.parametrize(
    ("body", "inputs", "free", "opset"),
    [
        (
            "t = Transpose <perm = [0, 2, 1]> (x) \n y = MatMul (t, w)",
            "float[2, 6, 3] x",
            "A, B, C",
            17,
        ),
        ("t = Transpose <perm = [0, 1]> (x) \n y = Gemm (t, w)", MATRIX, "A, B", 17),
        ("t = Transpose (x) \n y = MatMul (t, w)", "float[6, N] x", "A, B", 10),
    ],
)
def test_transposes_that_stay(body: str, inputs: str, free: str, opset: int) -> None:
    assert not fuse(body, inputs=inputs, free=free, opset=opset).result.modified


# --- factors --------------------------------------------------------------------------------------

PAIR = f"{MATRIX}, float[6, 5] z"


@pytest.mark.parametrize(
    "body",
    [
        "p = MatMul (x, z) \n y = Mul (p, n)",
        "p = MatMul (x, z) \n y = Div (p, n)",
        "p = Gemm <alpha = 0.5, beta = 2.0> (x, z, c) \n y = Mul (n, p)",
    ],
)
def test_factors(body: str) -> None:
    outcome = fuse(body, weight(name="n"), weight(5, name="c"), inputs=PAIR)
    assert outcome.operators == ["Gemm"]
    assert agrees(outcome, x=(3, 6), z=(6, 5))


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("p = MatMul (x, z) \n y = Mul (p, c)", PAIR),
        ("p = MatMul (x, z) \n y = Div (n, p)", PAIR),
        ("p = MatMul (x, w) \n y = Mul (p, n)", MATRIX),
    ],
)
def test_factors_that_stay(body: str, inputs: str) -> None:
    outcome = fuse(body, weight(name="n"), weight(5, name="c"), inputs=inputs)
    assert not outcome.result.modified


# --- Reshapes -------------------------------------------------------------------------------------

FLAT = "a = Constant <value = int64[2] {-1, 6}> () \n r = Reshape (x, a)"
BACK = "b = Constant <value = int64[3] {2, 3, 4}> () \n y = Reshape (p, b)"
TENSOR = "float[2, 3, 6] x"


@pytest.mark.parametrize(
    ("product", "left"),
    [
        ("p = MatMul (r, w)", ["MatMul"]),
        ("p = Gemm (r, w)", ["MatMul"]),
        ("p = Gemm <beta = 0.5> (r, w, k)", ["MatMul", "Add"]),
        ("p = Gemm <transB = 1> (r, t, k)", ["MatMul", "Add"]),
        ("m = MatMul (r, w) \n p = Add (m, k)", ["MatMul", "Add"]),
    ],
)
def test_a_product_between_reshapes(product: str, left: list[str]) -> None:
    outcome = fuse(
        f"{FLAT} \n {product} \n {BACK}", weight(4, 6, name="t"), inputs=TENSOR, free="A, B, C"
    )
    assert [op for op in outcome.operators if op != "Constant"] == left
    assert agrees(outcome, x=(2, 3, 6))


def test_reshapes_of_dynamic_dimensions() -> None:
    body = (
        "s = Shape (x) \n i = Constant <value = int64[2] {0, 1}> () \n l = Gather (s, i) "
        "\n f = Constant <value = int64[1] {4}> () \n t = Concat <axis = 0> (l, f) "
        f"\n {FLAT} \n p = Gemm (r, w, k) \n y = Reshape (p, t)"
    )
    outcome = fuse(body, inputs="float[N, S, 6] x", free="A, B, C")
    assert [op for op in outcome.operators if op != "Constant"] == ["MatMul", "Add"]
    assert agrees(outcome, x=(2, 5, 6))


@pytest.mark.parametrize(
    ("product", "back"),
    [
        ("p = Gemm (r, w, k)", "{3, 2, 4}"),
        ("p = Gemm (r, w, k)", "{2, 12, 1}"),
        ("p = Gemm <alpha = 0.5> (r, w, k)", "{2, 3, 4}"),
        ("p = Gemm (r, w, c)", "{2, 3, 4}"),
        ("p = Gemm (r, w, k) \n q = Relu (r)", "{2, 3, 4}"),
    ],
)
def test_reshapes_that_stay(product: str, back: str) -> None:
    more = ", float[U, V] q" if "q =" in product else ""
    text = (
        f"{head()} g ({TENSOR}) => (float[A, B, C] y{more}) "
        f"{{ {FLAT} \n {product} \n {BACK.replace('{2, 3, 4}', back)} }}"
    )
    outcome = apply(
        FuseGemm(), text, both(weight(6, 4), weight(4, name="k"), weight(6, 4, name="c"))
    )
    assert not outcome.result.modified


def test_one_matrix_for_several_products() -> None:
    body = (
        f"{FLAT} \n b = Constant <value = int64[3] {{2, 3, 4}}> () \n p = Gemm (r, w, k) "
        "\n q = Gemm (r, t, k) \n u = Reshape (p, b) \n v = Reshape (q, b) \n y = Mul (u, v)"
    )
    outcome = fuse(body, weight(6, 4, name="t"), inputs=TENSOR, free="A, B, C")
    assert sorted(op for op in outcome.operators if op != "Constant") == sorted(
        ["MatMul", "Add", "MatMul", "Add", "Mul"]
    )
    assert agrees(outcome, x=(2, 3, 6))
