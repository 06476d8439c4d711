"""fuse-affine: Mul, Div, Add, Sub and Neg with constants, behind a host, ahead of it, in chains."""

from __future__ import annotations

import numpy as np
import pytest
from norms import IMAGE, close, fuse, head, norm, weight
from rewriting import held

CHANNELS = "float[4, 1, 1] c = {2, -0.5, 3, 0.25}"
NUMBER = "float n = {-3}"


@pytest.mark.parametrize(
    "node",
    [
        *("Mul (h, c)", "Mul (c, h)", "Div (h, c)", "Add (h, c)", "Add (c, h)"),
        *("Sub (h, c)", "Sub (c, h)", "Neg (h)", "Mul (h, n)", "Div (h, n)", "Sub (n, h)"),
    ],
)
@pytest.mark.parametrize(
    ("host", "shape"),
    [
        ("Conv <pads = [1, 1, 1, 1]> (x, w)", (4, 3, 3, 3)),
        ("Conv (x, w, k)", (4, 3, 3, 3)),
        ("ConvTranspose (x, w, k)", (3, 4, 2, 2)),
    ],
)
def test_behind_a_convolution(node: str, host: str, shape: tuple[int, ...]) -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) <{CHANNELS}, {NUMBER}> "
        f"{{ h = {host} \n y = {node} }}",
        weight(*shape),
        weight(4, name="k"),
    )
    assert outcome.operators == [host.split()[0]]
    assert outcome.rewrites == {"scale-or-shift": 1}
    assert close(outcome, 2, 3, 8, 8)


@pytest.mark.parametrize(
    "node", ["Mul (h, c)", "Div (h, n)", "Add (h, c)", "Sub (c, h)", "Neg (h)"]
)
@pytest.mark.parametrize("host", ["Gemm (x, w)", "Gemm <beta = 0.5> (x, w, k)"])
def test_behind_a_gemm(node: str, host: str) -> None:
    outcome = fuse(
        f"{head()} g (float[N, 6] x) => (float[N, 4] y) "
        f"<float[1, 4] c = {{2, -0.5, 3, 0.25}}, {NUMBER}> {{ h = {host} \n y = {node} }}",
        weight(6, 4),
        weight(4, name="k"),
    )
    assert outcome.operators == ["Gemm"]
    assert close(outcome, 3, 6)


@pytest.mark.parametrize("x", [(3, 6), (2, 3, 6), (6,)])
@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("y = Mul (p, c)", ["MatMul"]),
        ("y = Neg (p)", ["MatMul"]),
        ("q = Add (p, k) \n y = Mul (c, q)", ["MatMul", "Add"]),
        ("q = Add (k, p) \n r = Div (q, n) \n y = Add (r, c)", ["MatMul", "Add"]),
        ("q = Sub (p, k) \n y = Mul (c, q)", ["MatMul", "Add"]),
        ("q = Sub (k, p) \n y = Sub (c, q)", ["MatMul", "Add"]),
    ],
)
def test_behind_a_product(x: tuple[int, ...], body: str, left: list[str]) -> None:
    dims, free = ", ".join(map(str, x)), ", ".join("ABC"[: len(x)])
    outcome = fuse(
        f"{head()} g (float[{dims}] x) => (float[{free}] y) "
        f"<float[4] c = {{2, -0.5, 3, 0.25}}, {NUMBER}> {{ p = MatMul (x, w) \n {body} }}",
        weight(6, 4),
        weight(4, name="k"),
    )
    assert outcome.operators == left
    assert close(outcome, *x)


def test_behind_products_with_a_batch_of_matrices() -> None:
    outcome = fuse(
        f"{head()} g (float[2, 3, 6] x) => (float[2, 3, 4] y) <float[4] c = {{2, -0.5, 3, 0.25}}> "
        "{ p = MatMul (x, w) \n y = Mul (p, c) }",
        weight(2, 6, 4),
    )
    assert outcome.operators == ["MatMul"]
    assert close(outcome, 2, 3, 6)


def test_a_shift_leaves_the_weight_alone() -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) <{CHANNELS}> "
        "{ h = Conv (x, w) \n y = Add (h, c) }",
        weight(4, 3, 3, 3),
    )
    (before,) = (t for t in outcome.before.graph.initializer if t.name == "w")
    (after,) = (t for t in outcome.after.graph.initializer if t.name == "w")
    assert after.raw_data == before.raw_data


@pytest.mark.parametrize(
    "shape",
    [(8,), (1, 8), (8, 1), (2, 1, 1, 1), (1, 1, 1, 1, 1), (1, 4, 8, 8), (3, 1, 1)],
)
def test_a_constant_that_does_not_run_along_the_channels(shape: tuple[int, ...]) -> None:
    size = "A, B, C, D, E" if len(shape) == 5 else "A, B, C, D"
    host = "Conv (x, w)" if shape != (3, 1, 1) else "Conv (x, v)"
    outcome = fuse(
        f"{head()} g (float[N, 3, 10, 10] x) => (float[{size}] y) "
        f"{{ h = {host} \n y = Mul (h, c) }}",
        weight(4, 3, 3, 3),
        weight(1, 3, 3, 3, name="v"),
        held("c", np.ones(shape, np.float32)),
    )
    assert not outcome.result.modified
    assert outcome.reasons.startswith("its constant does not run along the channels")


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ("y = Mul (h, c) \n z = Abs (h)", "float[A, B, C, D] z", "used elsewhere too"),
        ("y = Mul (h, c)", "float[A, B, C, D] h", "an output of the graph"),
        ("y = Div (h, zero) \n z = Abs (x)", "float[A, B, C, D] z", "not finite"),
    ],
)
def test_near_misses(body: str, more: str, reason: str) -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y, {more}) <{CHANNELS}, float zero = {{0}}> "
        f"{{ h = Conv (x, w) \n {body} }}",
        weight(4, 3, 3, 3),
    )
    assert not outcome.result.modified
    assert reason in outcome.reasons


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("h = Conv (x, w) \n y = Div (c, h)", IMAGE),
        ("h = Conv (x, w) \n y = Mul (h, h)", IMAGE),
        ("h = MatMul (x, x) \n y = Mul (h, c)", "float[2, 3, 8, 8] x"),
    ],
)
def test_what_is_not_affine_or_has_no_weight(body: str, inputs: str) -> None:
    outcome = fuse(
        f"{head()} g ({inputs}) => (float[A, B, C, D] y) <float c = {{2}}> {{ {body} }}",
        weight(4, 3, 3, 3),
    )
    assert not outcome.result.modified
    assert not outcome.reasons


def test_a_large_shared_weight_gets_no_copy() -> None:
    text = (
        f"{head()} g (float[1, 64] x) => (float[1, 8192] y, float[1, 8192] z) <float c = {{2}}> "
        "{ h = MatMul (x, w) \n y = Mul (h, c) \n z = MatMul (x, w) }"
    )
    outcome = fuse(text, weight(64, 8192))
    assert not outcome.result.modified
    assert outcome.reasons == ("other nodes share the weight, and a copy would add 2,097,152 bytes")


# --- ahead of a host ------------------------------------------------------------------------------

INPUT = "float[3, 1, 1] c = {2, -0.5, 3}"


@pytest.mark.parametrize(
    ("step", "host", "left"),
    [
        ("Mul (x, c)", "Conv <pads = [1, 1, 1, 1]> (s, w)", ["Conv"]),
        ("Div (x, n)", 'Conv <auto_pad = "SAME_UPPER"> (s, w, k)', ["Conv"]),
        ("Neg (x)", "Conv <pads = [1, 1, 1, 1]> (s, w)", ["Conv"]),
        ("Add (x, c)", "Conv (s, w)", ["Conv"]),
        ("Sub (c, x)", "Conv <strides = [2, 2]> (s, w, k)", ["Conv"]),
        ("Sub (x, n)", 'Conv <auto_pad = "VALID"> (s, w, k)', ["Conv"]),
        ("BatchNormalization (x, s0, b0, m0, v0)", "Conv (s, w, k)", ["Conv"]),
        ("Mul (x, c)", "ConvTranspose (s, t)", ["ConvTranspose"]),
    ],
)
def test_ahead_of_a_convolution(step: str, host: str, left: list[str]) -> None:
    parameters = {"s0": "s", "b0": "b", "m0": "m", "v0": "v"}
    for new, old in parameters.items():
        step = step.replace(new, f"q{old}")
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) <{INPUT}, {NUMBER}> "
        f"{{ s = {step} \n y = {host} }}",
        weight(4, 3, 3, 3),
        weight(3, 4, 2, 2, name="t"),
        weight(4, name="k"),
        norm(3, prefix="q"),
    )
    assert outcome.operators == left
    assert close(outcome, 2, 3, 8, 8)


def test_ahead_of_a_convolution_in_groups() -> None:
    outcome = fuse(
        f"{head()} g (float[N, 4, 8, 8] x) => (float[A, B, C, D] y) <{CHANNELS}> "
        "{ a = Mul (x, c) \n b = Add (a, c) \n y = Conv <group = 2> (b, w, k) }",
        weight(6, 2, 3, 3),
        weight(6, name="k"),
    )
    assert outcome.operators == ["Conv"]
    assert close(outcome, 2, 4, 8, 8)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("s = Mul (x, c) \n y = MatMul (s, w)", ["MatMul"]),
        ("s = Mul (x, c) \n y = Gemm <alpha = 0.5> (s, w)", ["Gemm"]),
        ("s = Add (x, c) \n y = Gemm <alpha = 0.5> (s, w, k)", ["Gemm"]),
        ("s = Sub (x, c) \n y = Gemm <transB = 1> (s, u)", ["Gemm"]),
        ("s = Add (x, c) \n p = MatMul (s, w) \n y = Add (p, k)", ["MatMul", "Add"]),
        ("s = Add (x, c) \n p = MatMul (s, w) \n y = Sub (k, p)", ["MatMul", "Sub"]),
        ("s = Add (x, c) \n y = MatMul (s, w)", ["Add", "MatMul"]),
        ("r = Mul (x, c) \n s = Add (r, n) \n y = MatMul (s, w)", ["Add", "MatMul"]),
        ("s = BatchNormalization (x, qs, qb, qm, qv) \n y = MatMul (s, w)", ["MatMul", "Add"]),
        ("s = BatchNormalization (x, qs, qb, qm, qv) \n y = Gemm (s, w)", ["Gemm"]),
        ("s = Add (x, c) \n y = Gemm <transA = 1> (s, z)", ["Add", "Gemm"]),
    ],
)
def test_ahead_of_a_product(body: str, left: list[str]) -> None:
    outcome = fuse(
        f"{head()} g (float[3, 6] x) => (float[A, 4] y) "
        f"<float[6] c = {{2, -0.5, 3, 0.25, 1, -1}}, {NUMBER}> {{ {body} }}",
        weight(6, 4),
        weight(4, 6, name="u"),
        weight(3, 4, name="z"),
        weight(4, name="k"),
        norm(6, prefix="q"),
    )
    assert outcome.operators == left
    assert close(outcome, 3, 6)


def test_a_shift_does_not_go_through_padding() -> None:
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) <{INPUT}> "
        "{ s = Add (x, c) \n y = Conv <pads = [1, 1, 1, 1]> (s, w) }",
        weight(4, 3, 3, 3),
    )
    assert not outcome.result.modified
    assert "does not go through its zero padding" in outcome.reasons


def test_preprocessing_ahead_of_a_padded_convolution_keeps_one_node() -> None:
    """(x / 255 - mean) / deviation: the factors go into the weight from under the shift."""
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) <float p = {{255}}, "
        "float[1, 3, 1, 1] m = {0.485, 0.456, 0.406}, float[1, 3, 1, 1] d = {0.229, 0.224, 0.225}> "
        "{ a = Div (x, p) \n b = Sub (a, m) \n s = Div (b, d) "
        "\n y = Conv <pads = [3, 3, 3, 3]> (s, w, k) }",
        weight(4, 3, 7, 7),
        weight(4, name="k"),
    )
    assert outcome.operators == ["Add", "Conv"]
    assert close(outcome, 2, 3, 8, 8)


def test_a_scale_that_enlarges_its_input_stays() -> None:
    outcome = fuse(
        f"{head()} g (float[N, 1, 8, 8] x) => (float[A, B, C, D] y) <{INPUT}> "
        "{ s = Mul (x, c) \n y = Conv (s, w) }",
        weight(4, 3, 3, 3),
    )
    assert not outcome.result.modified


# --- chains ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Mul (x, c) \n y = Div (a, n)", ["Mul"]),
        ("a = Div (x, n) \n b = Mul (d, a) \n e = Neg (b) \n y = Div (e, c)", ["Mul"]),
        ("a = Add (x, c) \n b = Add (d, a) \n y = Sub (b, n)", ["Add"]),
        ("a = Sub (c, x) \n y = Sub (d, a)", ["Add"]),
        ("a = Add (x, c) \n y = Sub (d, a)", ["Sub"]),
        ("a = Sub (x, d) \n y = Neg (a)", ["Sub"]),
        ("a = Mul (x, c) \n b = Add (a, d) \n y = Mul (b, n)", ["Mul", "Add"]),
        ("a = Add (x, c) \n b = Mul (a, d) \n y = Sub (n, b)", ["Mul", "Add"]),
        ("a = Div (x, n) \n b = Sub (a, c) \n e = Div (b, d) \n y = Add (e, n)", ["Mul", "Add"]),
        ("a = Mul (x, c) \n y = Add (a, d)", ["Mul", "Add"]),
        ("a = Sub (n, x) \n y = Mul (a, n)", ["Sub", "Mul"]),
        (
            "a = Mul (x, c) \n b = Mul (a, n) \n e = Mul (b, t) \n y = Add (e, n)",
            ["Mul", "Mul", "Add"],
        ),
    ],
)
def test_chains(body: str, left: list[str]) -> None:
    outcome = fuse(
        f"{head()} g (float[A, 5] x) => (float[A, 5] y) <{NUMBER}, float t = {{1e-20}}, "
        "float[5] c = {2, -0.5, 3, 0.25, 1}, float[1, 5] d = {1, -2, -4, 7, 0.5}> "
        f"{{ {body} }}"
    )
    assert outcome.operators == left
    assert close(outcome, 3, 5)


@pytest.mark.parametrize(("links", "times"), [(33, 1), (80, 3)])
def test_a_long_chain_joins_at_once(links: int, times: int) -> None:
    names = ["x", *(f"v{i}" for i in range(1, links)), "y"]
    body = [f"{names[i + 1]} = {('Mul', 'Add')[i % 2]} ({names[i]}, c)" for i in range(links)]
    outcome = fuse(
        f"{head()} g (float[A, 3] x) => (float[A, 3] y) <float[3] c = {{0.9, 1.01, -0.5}}> "
        f"{{ {' '.join(body)} }}"
    )
    assert outcome.operators == ["Mul", "Add"]
    assert outcome.rewrites == {"affine-chain": times}
    assert close(outcome, 2, 3)


def test_factors_that_cancel_leave_a_factor_of_one() -> None:
    outcome = fuse(
        f"{head()} g (float[A, 5] x) => (float[A, 5] y) <float c = {{4}}> "
        "{ a = Mul (x, c) \n y = Div (a, c) }"
    )
    assert outcome.operators == ["Mul"]
    assert outcome.initializers["y_scale"] == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Add (x, big) \n y = Sub (a, big)", "cancels out"),
        ("a = Mul (x, tiny) \n y = Mul (a, huge)", "near the limits of float32"),
        ("a = Add (x, row) \n y = Add (a, column)", "would be larger"),
    ],
)
def test_chains_that_stay(body: str, reason: str) -> None:
    outcome = fuse(
        f"{head()} g (float[2, 2] x) => (float[2, 2] y) <float big = {{1e6}}, "
        "float tiny = {1e-20}, float huge = {1e20}, float[2] row = {1, 2}, "
        f"float[2, 1] column = {{1, 2}}> {{ {body} }}"
    )
    assert not outcome.result.modified
    assert reason in outcome.reasons


def test_a_link_that_is_used_elsewhere() -> None:
    outcome = fuse(
        f"{head()} g (float[2] x) => (float[2] y, float[2] z) <{NUMBER}> "
        "{ a = Mul (x, n) \n y = Mul (a, n) \n z = Abs (a) }"
    )
    assert not outcome.result.modified


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_integers_stay(kind: str) -> None:
    outcome = fuse(
        f"{head()} g ({kind}[2] x) => ({kind}[2] y) <{kind} n = {{3}}> "
        "{ a = Add (x, n) \n b = Mul (a, n) \n y = Mul (b, n) }"
    )
    assert not outcome.result.modified


@pytest.mark.parametrize(
    ("node", "zeros", "goes"),
    [
        ("Add (a, z)", (1,), True),
        ("Add (z, a)", (1, 3), True),
        ("Sub (a, z)", (), True),
        ("Sub (z, a)", (), False),
        ("Add (a, z)", (2, 3), False),
        ("Add (a, z)", (1, 1, 1), False),
    ],
)
def test_adding_zero(node: str, zeros: tuple[int, ...], goes: bool) -> None:
    outcome = fuse(
        f"{head()} g (float[N, 3] x) => (float[{'A, B, C' if len(zeros) == 3 else 'A, B'}] y) "
        f"{{ a = Abs (x) \n b = {node} \n y = Relu (b) }}",
        held("z", np.zeros(zeros, np.float32)),
    )
    assert (outcome.operators == ["Abs", "Relu"]) is goes
    assert close(outcome, 2, 3)


@pytest.mark.parametrize(
    "body",
    [
        "n1 = BatchNormalization (r, s, b, m, v) \n y = Mul (n1, c)",
        "p = Mul (r, c) \n q = Add (p, n) \n y = BatchNormalization (q, s, b, m, v)",
        "n1 = BatchNormalization (r, s, b, m, v) \n y = BatchNormalization (n1, s, b, m, v)",
    ],
)
def test_a_norm_without_a_host_takes_in_what_is_beside_it(body: str) -> None:
    outcome = fuse(
        f"{head()} g (float[N, 4, 8, 8] x) => (float[A, B, C, D] y) <{CHANNELS}, {NUMBER}> "
        f"{{ r = Relu (x) \n {body} }}",
        norm(4),
    )
    assert outcome.operators == ["Relu", "BatchNormalization"]
    assert close(outcome, 2, 4, 8, 8)
