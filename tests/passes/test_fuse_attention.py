"""fuse-attention: scores, scales, masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from attention import SHAPES, agrees, attributes, feed, numbers, text
from rewriting import Outcome, apply, both, held

from graphopt_passes.fuse_attention import FuseAttention

LOW = float(np.finfo(np.float32).min)


def attend(
    scores: str = "p = MatMul (q, t) s = Mul (p, c)",
    *,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    edit: Any = None,
    more: str = "",
    softmax: str = "w = Softmax (s)",
    outputs: str = "float[a, b, c, d] y",
    opset: int = 23,
    regular: bool = False,
    type_: str = "float",
) -> Outcome:
    """`scores` makes s of q and t, the transposed keys."""
    inputs = ", ".join(f"{type_}{list(shape)} {name}" for name, shape in shapes.items())
    number = held("c", np.array(0.25, {"float": "f4", "double": "f8", "float16": "f2"}[type_]))
    return apply(
        FuseAttention(assume_regular=regular),
        text(
            f"({inputs}{more}) => ({outputs.replace('float', type_)}) "
            f"{{ t = Transpose <perm = [0, 1, 3, 2]> (k) {scores} {softmax} y = MatMul (w, v) }}",
            opset,
        ),
        both(number, edit) if edit else number,
    )


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ("p = MatMul (q, t) s = Mul (p, c)", 0.25),
        ("p = MatMul (q, t) s = Mul (c, p)", 0.25),
        ("p = MatMul (q, t) s = Div (p, c)", 4.0),
        ("s = MatMul (q, t)", 1.0),
        ("r = Mul (q, c) s = MatMul (r, t)", 0.25),
        ("r = Mul (q, c) u = Mul (t, c) s = MatMul (r, u)", 0.0625),
        ("r = Div (q, c) u = Mul (t, c) p = MatMul (r, u) s = Mul (p, c)", 0.25),
    ],
)
def test_scales(scores: str, scale: float) -> None:
    outcome = attend(scores)
    assert outcome.operators == ["Attention"]
    assert attributes(outcome) == {"scale": scale}
    assert agrees(outcome, feed())


def test_keys_scaled_before_they_are_transposed() -> None:
    outcome = apply(
        FuseAttention(),
        text(
            "(float[1, 2, 3, 4] q) => (float[1, 2, 3, 4] y) <float c = {0.5}> { k = Mul (q, c) "
            "t = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, t) w = Softmax (s) "
            "y = MatMul (w, q) }"
        ),
    )
    assert outcome.operators == ["Attention"]
    assert agrees(outcome, {"q": numbers(1, 2, 3, 4)})


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), None])
def test_keys_that_come_transposed(perm: tuple[int, ...] | None) -> None:
    shape = [2, 7, 4, 8] if perm else [2, 4, 8, 7]
    made = f"t = Transpose <perm = {list(perm)}> (k)" if perm else "t = Neg (k)"
    outcome = apply(
        FuseAttention(),
        text(
            f"(float[2, 4, 5, 8] q, float{shape} k, float[2, 4, 7, 6] v) => (float[2, 4, 5, 6] y) "
            f"{{ {made} s = MatMul (q, t) w = Softmax (s) y = MatMul (w, v) }}"
        ),
    )
    assert outcome.operators == [*([] if perm else ["Neg"]), "Transpose", "Attention"]
    assert agrees(outcome, feed({**SHAPES, "k": tuple(shape)}))


@pytest.mark.parametrize(
    "shape", [(5, 7), (1, 7), (5, 1), (1, 1, 1, 7), (2, 1, 5, 7), (4, 1, 7), (1, 5, 7)]
)
@pytest.mark.parametrize("order", ["Add (p, m)", "Add (m, p)"])
def test_masks_that_are_added(shape: tuple[int, ...], order: str) -> None:
    mask = np.where(numbers(*shape) > -1, 0, -1e30).astype(np.float32)
    outcome = attend(f"o = MatMul (q, t) p = Mul (o, c) s = {order}", edit=held("m", mask))
    # ONNX Runtime wants a number for each query and key
    assert outcome.operators == ["Attention"]
    used = outcome.initializers[outcome.after.graph.node[0].input[3]]
    assert used.shape[-2:] == (5, 7)
    assert agrees(outcome, feed())


def test_a_mask_with_infinities_that_leaves_a_key_to_each_query() -> None:
    mask = np.zeros((5, 7), np.float32)
    mask[:, 3:] = -np.inf
    outcome = attend("p = MatMul (q, t) s = Add (p, m)", edit=held("m", mask))
    assert outcome.operators == ["Attention"]
    assert agrees(outcome, feed())


def test_the_condition_is_the_mask() -> None:
    outcome = attend(
        "p = MatMul (q, t) m = Where (b, z, low) s = Add (p, m)",
        more=", bool[1, 1, 5, 7] b",
        edit=both(held("z", np.float32([0])), held("low", np.float32([-np.inf]))),
        regular=True,
    )
    assert outcome.operators == ["Attention"]
    mask = np.tri(5, 7, 1, dtype=bool)[None, None]
    assert agrees(outcome, feed(b=mask))


def test_a_mask_of_two_finite_numbers() -> None:
    outcome = attend(
        "p = MatMul (q, t) m = Where (b, z, low) s = Add (p, m)",
        more=", bool[1, 1, 5, 7] b",
        edit=both(held("z", np.float32(0)), held("low", np.float32(-1e9))),
    )
    assert outcome.operators == ["Where", "Attention"]
    assert agrees(outcome, feed(b=np.tri(5, 7, -1, dtype=bool)[None, None]))


def test_two_masks() -> None:
    outcome = attend(
        "p = MatMul (q, t) r = Add (p, m) s = Add (r, b)",
        edit=both(held("m", numbers(1, 4, 5, 7)), held("b", numbers(2, 1, 5, 7))),
    )
    assert outcome.operators == ["Attention"]
    assert agrees(outcome, feed())


@pytest.mark.parametrize("negated", [True, False])
def test_scores_replaced_by_where(negated: bool) -> None:
    choice = "Where (b, low, p)" if negated else "Where (b, p, low)"
    outcome = attend(
        f"p = MatMul (q, t) s = {choice}",
        more=", bool[2, 1, 5, 7] b",
        edit=held("low", np.float32(-np.inf)),
        regular=True,
    )
    assert outcome.operators == [*(["Not"] if negated else []), "Attention"]
    mask = np.broadcast_to(np.tri(5, 7, 1, dtype=bool), (2, 1, 5, 7))
    assert agrees(outcome, feed(b=mask != negated))


SQUARE = {**SHAPES, "k": (2, 4, 5, 8), "v": (2, 4, 5, 6)}


@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 5, 5)])
def test_the_causal_mask(shape: tuple[int, ...]) -> None:
    mask = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32).reshape(shape)
    outcome = attend("p = MatMul (q, t) s = Add (p, m)", shapes=SQUARE, edit=held("m", mask))
    assert outcome.operators == ["Attention"]
    assert attributes(outcome) == {"scale": 1.0, "is_causal": 1}
    assert agrees(outcome, feed(SQUARE))


@pytest.mark.parametrize(
    "mask",
    [
        np.where(np.tri(5, k=1, dtype=bool), 0, -np.inf),
        np.where(np.tri(5, dtype=bool), 0, LOW),
        np.where(np.tri(5, dtype=bool), 1, -np.inf),
    ],
)
def test_what_is_no_causal_mask(mask: np.ndarray) -> None:
    edit = held("m", mask.astype(np.float32))
    outcome = attend("p = MatMul (q, t) s = Add (p, m)", shapes=SQUARE, edit=edit)
    assert "is_causal" not in attributes(outcome)
    assert agrees(outcome, feed(SQUARE))


GUARD = "o = Softmax (s) i = IsNaN (o) w = Where (i, zero, o)"


@pytest.mark.parametrize("regular", [True, False])
def test_a_guard_against_nan(regular: bool) -> None:
    outcome = attend(softmax=GUARD, edit=held("zero", np.float32(0)), regular=regular)
    assert ("Attention" in outcome.operators) is regular
    assert outcome.declined == (
        [] if regular else ["NaN is turned to 0, which Attention does not; see assume_regular"]
    )
    assert agrees(outcome, feed())


def test_rows_without_a_key_by_assumption() -> None:
    mask = np.zeros((5, 7), bool)
    mask[2:, 4:] = True
    outcome = attend(
        "p = MatMul (q, t) m = Where (b, zero, low) s = Add (p, m)",
        softmax=GUARD,
        more=", bool[5, 7] b",
        edit=both(held("zero", np.float32(0)), held("low", np.float32(-np.inf))),
        regular=True,
    )
    assert outcome.operators == ["Attention"]
    assert agrees(outcome, feed(b=mask))


@pytest.mark.parametrize("type_", ["float16"])
def test_the_precision_of_the_softmax(type_: str) -> None:
    outcome = attend(
        "p = MatMul (q, t) o = Mul (p, c) s = Cast <to = 1> (o)",
        softmax=f"x = Softmax (s) w = Cast <to = {onnx.TensorProto.FLOAT16}> (x)",
        type_=type_,
    )
    assert outcome.operators == ["Attention"]
    assert attributes(outcome) == {"scale": 0.25, "softmax_precision": onnx.TensorProto.FLOAT}
    inputs = {name: array.astype(np.float16) for name, array in feed().items()}
    assert outcome.agrees(inputs, rtol=5e-3, atol=5e-3)  # float16 has 11 bits


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"opset": 22}, "opset 22 has no Attention: set-opset{version=23}"),
        (
            {"scores": "p = MatMul (q, t) s = Mul (p, m)", "edit": held("m", np.float32(-0.5))},
            "Attention takes the square root of the scale, here not positive",
        ),
        ({"type_": "double"}, "ONNX Runtime computes parts of Attention in float32"),
        (
            {"scores": "p = MatMul (q, t) s = Add (p, m)", "more": ", float[1, 7] m"},
            "the mask may hide all keys from a query, which gives 0 in Attention and not here;"
            " see assume_regular",
        ),
        (
            {
                "scores": "p = MatMul (q, t) s = Add (p, m)",
                "edit": held("m", np.full((1, 7), -np.inf, np.float32)),
            },
            "the mask may hide all keys from a query, which gives 0 in Attention and not here;"
            " see assume_regular",
        ),
        (
            {
                "scores": "p = MatMul (q, t) m = Where (b, z, low) s = Add (p, m)",
                "more": ", bool[5, 7] b",
                "edit": both(held("z", np.float32(0)), held("low", np.float32(LOW))),
            },
            "the mask may hide all keys from a query, which gives 0 in Attention and not here;"
            " see assume_regular",
        ),
        (
            {"scores": "p = MatMul (q, t) s = Add (p, m)", "more": ", float[n, 1, 1, 7] m"},
            "the mask may be larger than the scores; see assume_regular",
        ),
        (
            {
                "scores": "p = MatMul (q, t) s = Where (m, p, low)",
                "more": ", bool[5, 7] m",
                "edit": held("low", np.float32(-np.inf)),
            },
            "a score that is NaN is hidden here; see assume_regular",
        ),
        (
            {"scores": "p = MatMul (q, t) s = Add (p, m)", "edit": held("m", numbers(7))},
            "a mask for Attention has two to four dimensions",
        ),
    ],
)
def test_near_misses(options: dict[str, Any], reason: str) -> None:
    outcome = attend(**options)
    assert "Attention" not in outcome.operators
    assert outcome.declined == [reason]


@pytest.mark.parametrize(
    "options",
    [
        {"softmax": "w = Softmax <axis = 2> (s)"},
        {"softmax": "w = LogSoftmax (s)"},
        {"outputs": "float[a, b, c, d] y, float[e, f, g, h] w"},
        {"outputs": "float[a, b, c, d] y, float[e, f, g, h] p"},
        {"scores": "p = MatMul (q, t) s = Mul (p, m)", "edit": held("m", numbers(5, 7))},
        {"shapes": {**SHAPES, "v": (2, 1, 7, 6)}},  # the values alone are shared by the heads
        {"shapes": {**SHAPES, "q": (1, 4, 5, 8)}},
        {
            "scores": "p = MatMul (q, t) s = Where (m, p, low)",
            "more": ", bool[5, 7] m",
            "edit": held("low", np.float32(LOW)),
        },
    ],
)
def test_what_is_no_attention(options: dict[str, Any]) -> None:
    assert "Attention" not in attend(**options).operators


def test_keys_and_values_of_one_head() -> None:
    shapes = {**SHAPES, "k": (2, 1, 7, 8), "v": (2, 1, 7, 6)}
    outcome = attend(shapes=shapes)
    assert outcome.operators == ["Attention"]
    assert agrees(outcome, feed(shapes))
