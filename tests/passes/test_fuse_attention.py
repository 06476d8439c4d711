"""fuse-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from rewriting import Outcome, apply, both, held, run

from graphopt_passes.fuse_attention import FuseAttention

# (batch, heads, sequence, features): queries, keys and values
SHAPES = {"q": (2, 4, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 6)}
LOW = float(np.finfo(np.float32).min)


def numbers(*shape: int, seed: int = 5, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype(dtype)


def text(graph: str, opset: int = 23) -> str:
    return f'<ir_version: 10, opset_import: ["": {opset}]> g {graph}'


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


def feed(shapes: Mapping[str, tuple[int, ...]] = SHAPES, **more: np.ndarray) -> dict[str, Any]:
    made = {name: numbers(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return made | more


def attributes(outcome: Outcome) -> dict[str, Any]:
    node = next(n for n in outcome.after.graph.node if n.op_type == "Attention")
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def reasons(outcome: Outcome) -> list[str]:
    return [near.reason for near in outcome.result.declined]


def agrees(outcome: Outcome, inputs: Mapping[str, np.ndarray]) -> bool:
    """In ONNX Runtime and in onnx's reference evaluator, within rounding of float32."""
    if not outcome.agrees(inputs, rtol=1e-5, atol=1e-5):
        return False
    expected = run(outcome.before, inputs)
    actual = onnx.reference.ReferenceEvaluator(outcome.after).run(None, dict(inputs))
    return all(np.allclose(a, e, 1e-5, 1e-5) for a, e in zip(actual, expected, strict=True))


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
    expanded = [] if shape[-2:] == (5, 7) else ["Expand"]
    assert outcome.operators == [*expanded, "Attention"]
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
    assert outcome.operators == ["Add", "Attention"]
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
    assert reasons(outcome) == (
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


def test_double() -> None:
    outcome = attend(type_="double")
    assert outcome.operators == ["Attention"]
    inputs = {name: array.astype(np.float64) for name, array in feed().items()}
    assert outcome.agrees(inputs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"opset": 22}, "opset 22 has no Attention: set-opset{version=23}"),
        (
            {"scores": "p = MatMul (q, t) s = Mul (p, m)", "edit": held("m", np.float32(-0.5))},
            "Attention takes the square root of the scale, which is not positive",
        ),
        (
            {
                "scores": "p = MatMul (q, t) s = Mul (p, m)",
                "edit": held("m", np.float64(0.1)),
                "type_": "double",
            },
            "the scale of Attention is float32, here it is double",
        ),
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
    assert reasons(outcome) == [reason]


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


def heads(core: str, after: str = "y = Reshape (o, merged)", result: str = "n, 5, 32") -> Outcome:
    split = "".join(
        f"{x}r = Reshape ({x}, heads) {x}t = Transpose <perm = [0, 2, 1, 3]> ({x}r) " for x in "qkv"
    )
    return apply(
        FuseAttention(),
        text(
            f"(float[n, 5, 32] q, float[n, 5, 32] k) => (float[{result}] y) "
            "<int64[4] heads = {0, 0, 4, 8}, int64[3] merged = {0, 0, -1}, "
            "int64[2] flat = {-1, 32}> "
            f"{{ v = Neg (k) {split} kk = Transpose <perm = [0, 1, 3, 2]> (kt) {core} "
            f"o = Transpose <perm = [0, 2, 1, 3]> (a) {after} }}"
        ),
    )


CORE = "s = MatMul (qt, kk) w = Softmax (s) a = MatMul (w, vt)"


@pytest.mark.parametrize(
    ("core", "after", "operators"),
    [
        # the batch of q and k is not known to be the same
        (CORE, "y = Reshape (o, merged)", None),
        (CORE.replace("qt", "kt"), "y = Reshape (o, merged)", ["Attention"]),
        (CORE.replace("qt", "kt"), "y = Reshape (o, flat)", ["Attention", "Reshape"]),
    ],
)
def test_split_heads(core: str, after: str, operators: list[str] | None) -> None:
    outcome = heads(core, after, "n, 5, 32" if "merged" in after else "m, 32")
    if operators is None:
        assert "Attention" not in outcome.operators
        return
    assert outcome.operators == ["Neg", "Reshape", "Transpose", *operators]
    assert attributes(outcome) == {"scale": 1.0, "q_num_heads": 4, "kv_num_heads": 4}
    assert agrees(outcome, {"q": numbers(2, 5, 32), "k": numbers(2, 5, 32, seed=1)})


@pytest.mark.parametrize("after", ["y = Neg (o)", "y = Reshape (o, swapped)"])
def test_heads_that_are_not_merged(after: str) -> None:
    outcome = heads(
        f"swapped = Constant <value_ints = [0, 0, 0, 8]> () {CORE.replace('qt', 'kt')}",
        after,
        "n, 5, 4, 8",
    )
    assert outcome.operators[-3:] == ["Attention", "Transpose", after[4:].split()[0]]
    assert "q_num_heads" not in attributes(outcome)


def packed(taken: tuple[int, int, int] = (0, 1, 2), selection: str = "Gather") -> Outcome:
    if selection == "Gather":
        made = "".join(f"{x} = Gather (t, i{n}) " for x, n in zip("qkv", taken, strict=True))
    else:
        made = "s0, s1, s2 = Split <num_outputs = 3> (t) " + "".join(
            f"{x} = Squeeze (s{n}, zero) " for x, n in zip("qkv", taken, strict=True)
        )
    return apply(
        FuseAttention(),
        text(
            "(float[n, 5, 96] x) => (float[n, 5, 32] y) <int64[5] split = {0, 5, 3, 4, 8}, "
            "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] zero = {0}, "
            "int64[3] merged = {0, 5, 32}> { r = Reshape (x, split) "
            f"t = Transpose <perm = [2, 0, 3, 1, 4]> (r) {made} "
            "kk = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kk) w = Softmax (s) "
            "a = MatMul (w, v) o = Transpose <perm = [0, 2, 1, 3]> (a) y = Reshape (o, merged) }"
        ),
    )


@pytest.mark.parametrize("selection", ["Gather", "Split"])
@pytest.mark.parametrize("taken", [(0, 1, 2), (2, 0, 1)])
def test_packed_heads(selection: str, taken: tuple[int, int, int]) -> None:
    outcome = packed(taken, selection)
    assert outcome.operators == ["Split", "Attention"]
    assert agrees(outcome, {"x": numbers(2, 5, 96)})


def test_keys_that_are_the_values() -> None:
    outcome = packed((0, 1, 1))
    assert "Split" not in outcome.operators
    assert agrees(outcome, {"x": numbers(2, 5, 96)})


def grouped(order: str = "2, 4, 2, 7, 8", unsqueeze: int = 2) -> Outcome:
    repeat = "".join(
        f"{x}u = Unsqueeze ({x}, at) {x}e = Expand ({x}u, wide) {x}r = Reshape ({x}e, flat) "
        for x in "kv"
    )
    return apply(
        FuseAttention(),
        text(
            "(float[2, 8, 5, 8] q, float[2, 4, 7, 8] k, float[2, 4, 7, 8] v) => "
            f"(float[2, 8, 5, 8] y) <int64[1] at = {{{unsqueeze}}}, int64[5] wide = {{{order}}}, "
            f"int64[4] flat = {{2, 8, 7, 8}}> {{ {repeat} "
            "t = Transpose <perm = [0, 1, 3, 2]> (kr) s = MatMul (q, t) w = Softmax (s) "
            "y = MatMul (w, vr) }"
        ),
    )


def test_groups_of_queries() -> None:
    outcome = grouped()
    assert outcome.operators == ["Attention"]
    shapes = {"q": (2, 8, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 8)}
    assert agrees(outcome, feed(shapes))


def test_heads_that_are_repeated_one_after_the_other() -> None:
    outcome = grouped("2, 2, 4, 7, 8", unsqueeze=1)
    assert outcome.all_operators["Expand"] == 2
    shapes = {"q": (2, 8, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 8)}
    assert agrees(outcome, feed(shapes))
