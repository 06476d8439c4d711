"""fuse-affine: weights behind DequantizeLinear, whose scales take up the factors; other types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from norms import IMAGE, close, fuse, head, norm, weight
from rewriting import Outcome, held, run

INTEGERS = np.random.default_rng(3)


def integers(*shape: int, name: str = "q") -> object:
    return held(name, INTEGERS.integers(-127, 128, shape).astype(np.int8))


def scales(*shape: int, name: str = "t") -> object:
    return held(name, INTEGERS.uniform(0.01, 0.02, shape).astype(np.float32))


def fold(body: str, *edits: object, inputs: str = IMAGE, opset: int = 21) -> Outcome:
    free = ", ".join("ABCDE"[: inputs.count(",") + 1])
    text = f"{head(opset, 10)} g ({inputs}) => (float[{free}] y) {{ {body} }}"
    return fuse(text, norm(4), *edits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "edits", "host"),
    [
        (
            "w = DequantizeLinear <axis = 0> (q, t) \n h = Conv <pads = [1, 1, 1, 1]> (x, w, k)",
            (integers(4, 3, 3, 3), scales(4), weight(4, name="k")),
            "Conv",
        ),
        (
            "w = DequantizeLinear <axis = -4> (q, t, z) \n h = Conv (x, w)",
            (integers(4, 3, 3, 3), scales(4), held("z", np.array([1, 0, -3, 2], np.int8))),
            "Conv",
        ),
        (
            "w = DequantizeLinear <axis = 1> (q, t) \n h = ConvTranspose (x, w)",
            (integers(3, 4, 2, 2), scales(4)),
            "ConvTranspose",
        ),
        (
            "w = DequantizeLinear <axis = 1, block_size = 3> (q, t) \n h = Conv (x, w)",
            (integers(4, 3, 1, 1), scales(4, 1, 1, 1)),
            "Conv",
        ),
    ],
)
def test_a_norm_goes_into_the_scales(body: str, edits: tuple[object, ...], host: str) -> None:
    outcome = fold(f"{body} \n y = BatchNormalization (h, s, b, m, v)", *edits)
    assert outcome.operators == ["DequantizeLinear", host]
    before = next(t for t in outcome.before.graph.initializer if t.name == "q")
    after = next(t for t in outcome.after.graph.initializer if t.name == "q")
    assert before == after
    assert close(outcome, 2, 3, 8, 8)


@pytest.mark.parametrize(
    ("body", "edits"),
    [
        ("w = DequantizeLinear <axis = 1> (q, t) \n y = Mul (MatMul (x, w), c)", (scales(4),)),
        ("w = DequantizeLinear <axis = 1> (q, t) \n y = Div (MatMul (x, w), n)", (scales(4),)),
        ("w = DequantizeLinear (q, t) \n y = Mul (MatMul (x, w), n)", (scales(),)),
        ("w = DequantizeLinear <axis = 0> (q, t) \n y = Mul (MatMul (x, w), n)", (scales(6),)),
    ],
)
def test_a_factor_goes_into_the_scales(body: str, edits: tuple[object, ...]) -> None:
    outcome = fold(
        body.replace("MatMul (x, w)", "p").replace("\n", "\n p = MatMul (x, w) \n"),
        integers(6, 4),
        *edits,
        held("c", np.array([0.5, 2, 3, 1], np.float32)),
        held("n", np.array(3, np.float32)),
        inputs="float[N, 6] x",
    )
    assert outcome.operators == ["DequantizeLinear", "MatMul"]
    assert close(outcome, 3, 6)


@pytest.mark.parametrize(
    ("body", "edits", "reason"),
    [
        ("Mul (h, c)", (scales(4), held("c", np.full((4, 1, 1), -1, np.float32))), "not positive"),
        ("Neg (h)", (scales(4),), "not positive"),
        ("BatchNormalization (h, s, b, m, v)", (scales(),), "no scale for each channel"),
    ],
)
def test_scales_that_cannot_take_it(body: str, edits: tuple[object, ...], reason: str) -> None:
    outcome = fold(
        f"w = DequantizeLinear <axis = 0> (q, t) \n h = Conv (x, w) \n y = {body}",
        integers(4, 3, 3, 3),
        *edits,
    )
    assert not outcome.result.modified
    assert reason in outcome.reasons


def test_scales_along_another_axis() -> None:
    """As many of them as channels."""
    outcome = fold(
        "w = DequantizeLinear <axis = 0> (q, t) \n h = MatMul (x, w) \n y = Mul (h, c)",
        integers(4, 4),
        scales(4),
        held("c", np.array([0.5, 2, 3, 1], np.float32)),
        inputs="float[N, 4] x",
    )
    assert not outcome.result.modified


def test_a_quantized_bias_stays() -> None:
    outcome = fold(
        "w = DequantizeLinear <axis = 0> (q, t) \n k = DequantizeLinear <axis = 0> (i, t) "
        "\n h = Conv (x, w, k) \n y = BatchNormalization (h, s, b, m, v)",
        integers(4, 3, 3, 3),
        scales(4),
        held("i", np.arange(4, dtype=np.int32)),
    )
    assert not outcome.result.modified
    assert "the bias comes from a DequantizeLinear" in outcome.reasons


def test_a_quantized_weight_that_two_nodes_read() -> None:
    outcome = fold(
        "w = DequantizeLinear <axis = 0> (q, t) \n h = Conv (x, w) \n a = Abs (x) "
        "\n g = Conv (a, w) \n e = BatchNormalization (h, s, b, m, v) \n y = Add (e, g)",
        integers(4, 3, 3, 3),
        scales(4),
    )
    assert not outcome.result.modified
    assert "the quantized weight is used elsewhere too" in outcome.reasons


# --- other types ----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2.0, 1 / 3])
def test_float16_is_rounded_once(factor: float) -> None:
    number = np.float16(factor)
    outcome = fuse(
        f"{head()} g (float16[N, 3, 8, 8] x) => (float16[A, B, C, D] y) "
        "{ h = Conv (x, w) \n y = Mul (h, c) }",
        weight(4, 3, 3, 3, dtype=np.float16),
        held("c", np.array(number)),
    )
    assert outcome.operators == ["Conv"]
    (before,) = (
        np.frombuffer(t.raw_data, np.float16)
        for t in outcome.before.graph.initializer
        if t.name == "w"
    )
    expected = (before.astype(np.float64) * float(number)).astype(np.float16)
    np.testing.assert_array_equal(outcome.initializers["w"].reshape(-1), expected)


def test_float16_factors_that_would_vanish() -> None:
    outcome = fuse(
        f"{head()} g (float16[N, 3, 8, 8] x) => (float16[A, B, C, D] y) "
        "{ h = Conv (x, w) \n y = Mul (h, c) }",
        weight(4, 3, 3, 3, dtype=np.float16),
        held("c", np.array(1e-6, np.float16)),
    )
    assert not outcome.result.modified
    assert "too small for float16" in outcome.reasons


@pytest.mark.parametrize("pruned", [[0], [0, 1, 2, 3]])
def test_channels_of_zeros_are_no_reason(pruned: list[int]) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weights[pruned] = 0
    outcome = fuse(
        f"{head()} g ({IMAGE}) => (float[A, B, C, D] y) "
        "{ h = Conv (x, w) \n y = BatchNormalization (h, s, b, m, v) }",
        norm(4),
        held("w", weights),
    )
    assert outcome.operators == ["Conv"]
    assert close(outcome, 2, 3, 8, 8)


def test_double() -> None:
    outcome = fuse(
        f"{head()} g (double[N, 6] x) => (double[N, 4] y) "
        "{ h = MatMul (x, w) \n p = Add (h, k) \n y = Mul (p, c) }",
        weight(6, 4, dtype=np.float64),
        weight(4, name="k", dtype=np.float64),
        held("c", np.array(1 / 3)),
    )
    assert outcome.operators == ["MatMul", "Add"]
    x = np.random.default_rng(0).standard_normal((3, 6))
    (before,), (after,) = run(outcome.before, {"x": x}), run(outcome.after, {"x": x})
    np.testing.assert_allclose(after, before, rtol=1e-13, atol=1e-13)


def test_bfloat16_stays() -> None:
    outcome = fuse(
        f"{head()} g (bfloat16[N, 6] x) => (bfloat16[N, 4] y) "
        "{ h = MatMul (x, w) \n y = Mul (h, c) }",
        weight(6, 4, dtype=ml_dtypes.bfloat16),
        held("c", np.array(0.5, ml_dtypes.bfloat16)),
    )
    assert not outcome.result.modified
