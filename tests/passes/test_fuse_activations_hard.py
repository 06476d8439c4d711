"""fuse-activations: HardSigmoid, HardSwish, Relu, LeakyRelu and PRelu."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from formulas import EDGES, error, formula, fuse, random, reasons
from rewriting import Outcome

from graphopt_passes.fuse_activations import FuseActivations

SIX = {"a": 3.0, "l": 0.0, "u": 6.0, "s": 1 / 6, "o": 1.0, "h": 0.5, "g": -1.0, "v": 0.1}
SIX |= {"f": np.inf, "e": 5.0}


def apply_to(body: str, opset: int = 17, x: str = "float[2, 8]", **changed: object) -> Outcome:
    constants = {n: c for n, c in {**SIX, **changed}.items() if f"{n})" in body or f"{n}," in body}
    return fuse(FuseActivations(), formula(body, opset, x=x, **constants))  # type: ignore[arg-type]


def attributes(outcome: Outcome, index: int = 0) -> dict[str, float]:
    node = outcome.after.graph.node[index]
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


HARD_SIGMOIDS = {
    "torch": "p = Add (x, a) c = Clip (p, l, u) y = Div (c, u)",
    "times": "p = Add (a, x) c = Clip (p, l, u) y = Mul (s, c)",
    "paddle": "p = Mul (x, s) q = Add (p, h) y = Clip (q, l, o)",
    "tensorflow": "p = Add (x, a) r = Relu (p) c = Min (r, u) y = Mul (c, s)",
    "min of max": "p = Add (x, a) r = Max (p, l) c = Min (r, u) y = Div (c, u)",
    "max of min": "p = Add (x, a) r = Min (u, p) c = Max (l, r) y = Div (c, u)",
    "relu of min": "p = Div (x, u) q = Add (p, h) c = Min (q, o) y = Relu (c)",
    "divided first": "p = Div (x, u) q = Add (p, h) y = Clip (q, l, o)",
    "less minus three": "p = Sub (x, m3) c = Clip (p, l, u) y = Div (c, u)",
}


@pytest.mark.parametrize("body", HARD_SIGMOIDS.values(), ids=HARD_SIGMOIDS)
def test_hard_sigmoid(body: str) -> None:
    outcome = apply_to(body, m3=-3.0)
    assert outcome.operators == ["HardSigmoid"]
    found = attributes(outcome)
    assert found == {"alpha": pytest.approx(1 / 6, rel=1e-7), "beta": 0.5}
    assert error(outcome, EDGES.reshape(2, 8)) < 1e-7
    assert error(outcome, random(2, 8)) < 2e-7


def test_hard_sigmoid_of_other_slopes() -> None:
    outcome = apply_to("p = Mul (x, s) q = Add (p, h) y = Clip (q, l, o)", s=0.2, h=0.4)
    assert outcome.operators == ["HardSigmoid"]
    assert attributes(outcome) == pytest.approx({"alpha": 0.2, "beta": 0.4})
    assert error(outcome, random(2, 8)) < 1e-7


@pytest.mark.parametrize("opset", [9, 12])
def test_hard_sigmoid_before_clip_had_inputs(opset: int) -> None:
    clip = "Clip <min = 0.0, max = 6.0> (p)" if opset < 11 else "Clip (p, l, u)"
    outcome = apply_to(f"p = Add (x, a) c = {clip} y = Div (c, u)", opset)
    assert outcome.operators == ["HardSigmoid"]
    assert error(outcome, random(2, 8)) < 2e-7


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (HARD_SIGMOIDS["torch"], {"u": 5.0, "l": -1.0}),
        ("p = Add (x, a) c = Clip (p, l, u) y = Div (c, e)", {}),
        ("p = Add (x, a) c = Clip (p, l, u) y = Div (u, c)", {"u": 6.0}),
        ("p = Mul (x, g) q = Add (p, h) y = Clip (q, l, o)", {}),
        ("p = Mul (x, a) y = Clip (p, l, o)", {}),
        ("p = Add (x, a) y = Clip (p, l, u)", {}),
    ],
)
def test_no_hard_sigmoid(body: str, changed: dict[str, float]) -> None:
    outcome = apply_to(body, **changed)
    assert not outcome.result.modified


def test_double_has_no_kernel() -> None:
    constants = {n: np.array(SIX[n], np.float64) for n in "alu"}
    outcome = apply_to(HARD_SIGMOIDS["torch"], x="double[2, 8]", **constants)
    assert not outcome.result.modified
    assert reasons(outcome) == ["hard-sigmoid: ONNX Runtime has no HardSigmoid for double"]


def test_bfloat16_came_in_opset_22() -> None:
    kind = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    constants = {n: np.array(SIX[n]).astype(kind) for n in "alu"}
    old = apply_to(HARD_SIGMOIDS["torch"], 20, x="bfloat16[2, 8]", **constants)
    assert reasons(old) == ["hard-sigmoid: HardSigmoid of opset 20 does not take bfloat16"]
    new = apply_to(HARD_SIGMOIDS["torch"], 23, x="bfloat16[2, 8]", **constants)
    assert new.operators == ["HardSigmoid"]


HARD_SWISHES = {
    "torch": "p = Add (x, a) c = Clip (p, l, u) m = Mul (x, c) y = Div (m, u)",
    "timm": "p = Add (x, a) c = Clip (p, l, u) d = Div (c, u) y = Mul (x, d)",
    "by a sixth": "p = Add (x, a) c = Clip (p, l, u) d = Mul (x, s) y = Mul (d, c)",
    "tensorflow": "p = Add (x, a) r = Relu (p) c = Min (r, u) d = Mul (x, c) y = Mul (d, s)",
    "hard sigmoid": "d = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (d, x)",
}


@pytest.mark.parametrize("body", HARD_SWISHES.values(), ids=HARD_SWISHES)
def test_hard_swish(body: str) -> None:
    outcome = apply_to(body)
    assert outcome.operators == ["HardSwish"]
    assert error(outcome, random(2, 8)) < 2e-7
    assert error(outcome, EDGES.reshape(2, 8)) < 2e-7


@pytest.mark.parametrize("name", ["torch", "tensorflow", "by a sixth"])
def test_hard_swish_before_there_was_one(name: str) -> None:
    outcome = apply_to(HARD_SWISHES[name], 12)
    assert outcome.operators == ["HardSigmoid", "Mul"]
    assert reasons(outcome) == [
        "hard-swish: HardSwish needs opset 14 (the model has 12): run set-opset{version=14} first"
    ]
    assert error(outcome, random(2, 8)) < 2e-7


@pytest.mark.parametrize(
    "body",
    [
        "p = Add (x, o) c = Clip (p, l, u) m = Mul (x, c) y = Div (m, u)",
        "p = Add (x, a) c = Clip (p, l, e) m = Mul (x, c) y = Div (m, u)",
        "p = Add (x, a) c = Clip (p, l, u) m = Mul (x, c) y = Div (m, e)",
        "z = Neg (x) p = Add (x, a) c = Clip (p, l, u) m = Mul (z, c) y = Div (m, u)",
        "d = HardSigmoid (x) y = Mul (d, x)",
    ],
)
def test_no_hard_swish(body: str) -> None:
    assert "HardSwish" not in apply_to(body).operators


def test_a_gate_that_is_used_elsewhere_stays() -> None:
    body = f"{HARD_SWISHES['torch'].replace('y =', 'z =')} w = Neg (c) y = Add (z, w)"
    outcome = apply_to(body)
    assert not outcome.result.modified
    assert reasons(outcome) == ["hard-swish: 'c' in the midst of it is used elsewhere too"]


def test_relu() -> None:
    for body in ("y = Max (x, l)", "y = Max (l, x)", "y = Clip (x, l, f)"):
        outcome = apply_to(body)
        assert outcome.operators == ["Relu"], body
        assert error(outcome, EDGES.reshape(2, 8)) == 0.0


@pytest.mark.parametrize(
    "body", ["y = Clip (x, l)", "y = Clip (x, l, u)", "y = Max (x, h)", "y = Max (x, l, o)"]
)
def test_no_relu(body: str) -> None:
    """A Clip without a maximum makes the largest number of infinity."""
    assert not apply_to(body).result.modified


def test_integers_are_not_touched() -> None:
    outcome = apply_to("y = Max (x, l)", x="int32[2, 8]", l=np.array(0, np.int32))
    assert not outcome.result.modified


@pytest.mark.parametrize("body", ["p = Mul (x, v) y = Max (x, p)", "p = Div (x, e) y = Max (p, x)"])
def test_leaky_relu(body: str) -> None:
    outcome = apply_to(body)
    assert outcome.operators == ["LeakyRelu"]
    assert error(outcome, EDGES.reshape(2, 8)) < 1e-7


@pytest.mark.parametrize("slope", [0.0, 1.0, 1.5, -0.1])
def test_a_maximum_with_other_slopes_is_no_leaky_relu(slope: float) -> None:
    assert not apply_to("p = Mul (x, v) y = Max (x, p)", v=slope).result.modified


SLOPES = np.array([0.1, 0.2, -0.3, 0, 1, 2, 0.5, 0.25], np.float32)
PRELUS = {
    "torch": ("p = Relu (x) n = Neg (x) q = Relu (n) t = Mul (v, q) y = Sub (p, t)", 1),
    "keras": ("p = Relu (x) n = Neg (x) q = Relu (n) t = Mul (v, q) y = Add (p, t)", -1),
    "minimum": ("p = Max (x, l) q = Min (x, l) t = Mul (q, v) y = Add (t, p)", 1),
    "less": ("p = Relu (x) q = Min (l, x) t = Mul (q, v) y = Sub (p, t)", -1),
}


@pytest.mark.parametrize(("body", "sign"), PRELUS.values(), ids=PRELUS)
def test_prelu(body: str, sign: int) -> None:
    outcome = apply_to(body, v=SLOPES)
    assert outcome.operators == ["PRelu"]
    assert np.array_equal(next(iter(outcome.initializers.values())), sign * SLOPES)
    assert error(outcome, random(2, 8)) < 1e-7
    single = apply_to(body, v=0.25)
    assert single.operators == ["LeakyRelu"]
    assert attributes(single) == {"alpha": sign * 0.25}
    assert error(single, random(2, 8)) < 1e-7


@pytest.mark.parametrize(
    "body",
    [
        "p = Relu (x) q = Relu (x) t = Mul (v, q) y = Sub (p, t)",
        "z = Abs (x) p = Relu (x) n = Neg (z) q = Relu (n) t = Mul (v, q) y = Sub (p, t)",
        "p = Relu (x) n = Neg (x) q = Relu (n) t = Mul (x, q) y = Sub (p, t)",
        "p = Relu (x) n = Neg (x) q = Relu (n) t = Mul (v, q) y = Sub (t, p)",
    ],
)
def test_no_prelu(body: str) -> None:
    assert not apply_to(body, v=SLOPES).result.modified


WHERES = {
    "less": "b = Less (x, l) t = Mul (v, x) y = Where (b, t, x)",
    "greater": "b = Greater (x, l) t = Mul (x, v) y = Where (b, x, t)",
    "not less": "b = GreaterOrEqual (x, l) t = Mul (x, v) y = Where (b, x, t)",
}


@pytest.mark.parametrize("body", WHERES.values(), ids=WHERES)
def test_prelu_by_where(body: str) -> None:
    outcome = apply_to(body, v=SLOPES)
    assert outcome.operators == ["PRelu"]
    assert error(outcome, random(2, 8)) == 0.0
    single = apply_to(body, v=0.3)
    assert single.operators == ["LeakyRelu"]
    assert error(single, EDGES.reshape(2, 8)) == 0.0


@pytest.mark.parametrize(
    "body",
    [
        "b = Less (x, l) t = Mul (v, x) y = Where (b, x, t)",
        "b = Less (x, o) t = Mul (v, x) y = Where (b, t, x)",
        "b = Less (l, x) t = Mul (v, x) y = Where (b, t, x)",
        "z = Abs (x) b = Less (x, l) t = Mul (v, z) y = Where (b, t, x)",
        "z = Abs (x) b = Less (z, l) t = Mul (v, x) y = Where (b, t, x)",
    ],
)
def test_no_prelu_by_where(body: str) -> None:
    assert not apply_to(body, v=SLOPES).result.modified


def test_a_slope_that_makes_the_shape_larger_is_none() -> None:
    body = PRELUS["torch"][0]
    model = formula(body, x="float[2, 8]", y="float[3, 2, 8]", v=np.ones((3, 1, 1), np.float32))
    assert not fuse(FuseActivations(), model).result.modified


def test_prelu_of_one_number() -> None:
    outcome = apply_to("y = PRelu (x, v)", v=np.array([0.1], np.float32))
    assert outcome.operators == ["LeakyRelu"]
    assert error(outcome, EDGES.reshape(2, 8)) == 0.0
    assert not apply_to("y = PRelu (x, v)", v=SLOPES).result.modified
    tenth = np.array([0.1], np.float64)
    assert not apply_to("y = PRelu (x, v)", x="double[2, 8]", v=tenth).result.modified


@pytest.mark.parametrize(("v", "operator"), [(SLOPES, "PRelu"), (0.25, "LeakyRelu")])
@pytest.mark.parametrize("opset", [15, 18, 20])
def test_rectifiers_of_double_stay(v: object, operator: str, opset: int) -> None:
    kept = apply_to(PRELUS["torch"][0], opset, x="double[2, 8]", v=np.asarray(v, np.float64))
    assert reasons(kept) == [f"prelu: ONNX Runtime has no {operator} for double"]
    kept = apply_to("p = Mul (x, v) y = Max (x, p)", opset, x="double[2, 8]", v=np.array(0.25))
    assert reasons(kept) == ["leaky-relu: ONNX Runtime has no LeakyRelu for double"]
