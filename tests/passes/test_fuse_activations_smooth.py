"""fuse-activations: Sigmoid, Swish, Mish, Softplus, Softsign, Softmax and LogSoftmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from formulas import EDGES, error, formula, fuse, random, reasons
from rewriting import Outcome

from graphopt_passes.fuse_activations import FuseActivations

NUMBERS = {"o": 1.0, "w": 2.0, "m": -1.0, "z": 0.0, "k": 1.702}
NUMBERS |= {"i": np.array([-1]), "j": np.array([1])}


def apply_to(body: str, opset: int = 17, x: str = "float[2, 8]", **changed: object) -> Outcome:
    used = {n: c for n, c in {**NUMBERS, **changed}.items() if f"{n})" in body or f"{n}," in body}
    return fuse(FuseActivations(), formula(body, opset, x=x, **used))  # type: ignore[arg-type]


SIGMOIDS = {
    "neg": "n = Neg (x) e = Exp (n) s = Add (e, o) y = Div (o, s)",
    "times minus one": "n = Mul (m, x) e = Exp (n) s = Add (o, e) y = Reciprocal (s)",
    "zero less": "n = Sub (z, x) e = Exp (n) s = Add (o, e) y = Div (o, s)",
}


@pytest.mark.parametrize("body", SIGMOIDS.values(), ids=SIGMOIDS)
def test_sigmoid(body: str) -> None:
    outcome = apply_to(body)
    assert outcome.operators == ["Sigmoid"]
    assert error(outcome, EDGES.reshape(2, 8)) < 2e-7


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp (x) s = Add (e, o) y = Div (o, s)",
        "n = Neg (x) e = Exp (n) s = Add (e, w) y = Div (o, s)",
        "n = Neg (x) e = Exp (n) s = Add (e, o) y = Div (w, s)",
        "n = Mul (x, k) e = Exp (n) s = Add (e, o) y = Div (o, s)",
    ],
)
def test_no_sigmoid(body: str) -> None:
    assert not apply_to(body).result.modified


@pytest.mark.parametrize("after", ["y = Log (v)", "y = Reciprocal (v)", "y = Div (o, v)"])
def test_a_sigmoid_whose_small_values_matter_stays(after: str) -> None:
    outcome = apply_to(f"{SIGMOIDS['neg'].replace('y =', 'v =')} {after}")
    assert not outcome.result.modified
    assert reasons(outcome) == [
        "sigmoid: what follows magnifies numbers near 0, where a Sigmoid is less exact"
    ]


SWISHES = {
    "silu": ("s = Sigmoid (x) y = Mul (x, s)", None),
    "the other way": ("s = Sigmoid (x) y = Mul (s, x)", None),
    "by one": ("b = Mul (x, o) s = Sigmoid (b) y = Mul (x, s)", None),
    "quick gelu": ("b = Mul (k, x) s = Sigmoid (b) y = Mul (x, s)", 1.702),
    "by two": ("b = Div (x, w) s = Sigmoid (b) y = Mul (x, s)", 0.5),
}


@pytest.mark.parametrize(("body", "alpha"), SWISHES.values(), ids=SWISHES)
def test_swish(body: str, alpha: float | None) -> None:
    outcome = apply_to(body, 24)
    assert outcome.operators == ["Swish"]
    found = [onnx.helper.get_attribute_value(a) for a in outcome.after.graph.node[0].attribute]
    assert found == ([] if alpha is None else [pytest.approx(alpha, rel=1e-7)])
    assert error(outcome, EDGES.reshape(2, 8)) < 2e-7


def test_swish_of_double() -> None:
    body = SWISHES["quick gelu"][0]
    kept = apply_to(body, 24, x="double[2, 8]", k=np.array(1.702))
    assert reasons(kept) == ["swish: an attribute is a float32, which 1.702 of double is not"]
    outcome = apply_to(body, 24, x="double[2, 8]", k=np.array(1.75))
    assert outcome.operators == ["Swish"]
    assert error(outcome, random(2, 8, dtype=np.float64)) < 1e-15


def test_swish_of_another_opset() -> None:
    assert reasons(apply_to(SWISHES["silu"][0], 23)) == [
        "swish: Swish needs opset 24 (the model has 23): run set-opset{version=24} first"
    ]
    model = formula(SWISHES["silu"][0], 24, x="float[2, 8]")
    model.opset_import[0].version, model.ir_version = 25, 12
    outcome = fuse(FuseActivations(), model)
    assert reasons(outcome) == ["swish: ONNX Runtime runs Swish in models of opset 24 only"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Abs (x) s = Sigmoid (a) y = Mul (x, s)",
        "b = Add (x, o) s = Sigmoid (b) y = Mul (x, s)",
        "s = Sigmoid (x) t = Mul (s, w) y = Mul (x, t)",
        "s = Sigmoid (x) y = Add (x, s)",
        "s = Sigmoid (x) y = Mul (s, s)",
    ],
)
def test_no_swish(body: str) -> None:
    outcome = apply_to(body, 24)
    assert "Swish" not in outcome.operators


MISHES = {
    "torch": "s = Softplus (x) t = Tanh (s) y = Mul (x, t)",
    "darknet": "e = Exp (x) a = Add (e, o) s = Log (a) t = Tanh (s) y = Mul (t, x)",
}


@pytest.mark.parametrize("body", MISHES.values(), ids=MISHES)
def test_mish(body: str) -> None:
    outcome = apply_to(body, 18)
    assert outcome.operators == ["Mish"]
    assert error(outcome, EDGES.reshape(2, 8)) < 2e-7
    assert error(outcome, random(2, 8)) < 3e-7
    assert [r.partition(": ")[2] for r in reasons(apply_to(body, 17))] == [
        "Mish needs opset 18 (the model has 17): run set-opset{version=18} first"
    ]


def test_no_mish() -> None:
    assert not apply_to("a = Abs (x) s = Softplus (a) t = Tanh (s) y = Mul (x, t)").result.modified
    assert not apply_to("s = Softsign (x) t = Tanh (s) y = Mul (x, t)").result.modified


def test_softplus_that_overflows_stays() -> None:
    outcome = apply_to("e = Exp (x) a = Add (e, o) y = Log (a)")
    assert not outcome.result.modified
    assert reasons(outcome) == ["softplus: exp(x) overflows for large x, where Softplus does not"]


def test_softplus_that_does_not() -> None:
    body = "r = Relu (x) b = Abs (x) n = Neg (b) e = Exp (n) a = Add (e, o) l = Log (a) "
    outcome = apply_to(f"{body} y = Add (r, l)")
    assert outcome.operators == ["Softplus"]
    assert not outcome.result.declined
    assert error(outcome, EDGES.reshape(2, 8)) < 1e-7
    assert error(outcome, random(2, 8)) < 2e-7
    assert not apply_to(f"{body} y = Sub (r, l)").result.modified


def test_softplus_of_dynamo() -> None:
    body = "b = Greater (x, c) s = Softplus (x) y = Where (b, x, s)"
    outcome = apply_to(body, c=20.0)
    assert outcome.operators == ["Softplus"]
    assert error(outcome, EDGES.reshape(2, 8)) == 0.0
    assert error(outcome, 10 * random(2, 8)) < 1e-7
    assert not apply_to(body, c=10.0).result.modified
    assert not apply_to(body.replace("Where (b, x, s)", "Where (b, s, x)"), c=20.0).result.modified


def test_softsign() -> None:
    outcome = apply_to("b = Abs (x) a = Add (b, o) y = Div (x, a)")
    assert outcome.operators == ["Softsign"]
    assert error(outcome, EDGES.reshape(2, 8)) < 1e-7
    for body in (
        "b = Abs (x) a = Add (b, w) y = Div (x, a)",
        "v = Neg (x) b = Abs (v) a = Add (b, o) y = Div (x, a)",
        "b = Abs (x) a = Add (b, o) y = Div (a, x)",
    ):
        assert not apply_to(body).result.modified


SOFTMAX = "g = ReduceMax <axes = [-1]> (x) d = Sub (x, g) e = Exp (d) s = ReduceSum (e, i)"
SOFTMAXES = {
    "div": f"{SOFTMAX} y = Div (e, s)",
    "reciprocal": f"{SOFTMAX} r = Reciprocal (s) y = Mul (e, r)",
}
LARGE = 100 * random(2, 3, 8)


@pytest.mark.parametrize("body", SOFTMAXES.values(), ids=SOFTMAXES)
def test_softmax(body: str) -> None:
    outcome = apply_to(body, x="float[2, 3, 8]")
    assert outcome.operators == ["Softmax"]
    assert error(outcome, random(2, 3, 8)) < 3e-7
    assert error(outcome, LARGE) < 3e-7


def test_log_softmax() -> None:
    outcome = apply_to(f"{SOFTMAX} l = Log (s) y = Sub (d, l)", x="float[2, 3, 8]")
    assert outcome.operators == ["LogSoftmax"]
    assert error(outcome, LARGE) < 3e-7


def test_softmax_over_an_axis_in_the_middle() -> None:
    body = SOFTMAXES["div"].replace("[-1]", "[1]").replace(", i)", ", j)")
    outcome = apply_to(body, x="float[2, 3, 8]")
    assert outcome.operators == ["Softmax"]
    assert outcome.after.graph.node[0].attribute[0].i == 1
    assert error(outcome, LARGE) < 3e-7
    body = body.replace("ReduceSum (e, j)", "ReduceSum <axes = [1]> (e)")
    old = apply_to(body, 11, x="float[2, 3, 8]")
    assert not old.result.modified
    assert reasons(old) == ["softmax: before opset 13, Softmax is over all axes from its own on"]


def test_softmax_of_opset_11_over_the_last_axis() -> None:
    body = SOFTMAXES["div"].replace("ReduceSum (e, i)", "ReduceSum <axes = [-1]> (e)")
    outcome = apply_to(body, 11, x="float[2, 3, 8]")
    assert outcome.operators == ["Softmax"]
    assert error(outcome, LARGE) < 3e-7


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (", i)", ", j)"),
        ("<axes = [-1]>", "<axes = [1]>"),
        ("ReduceMax", "ReduceMean"),
        ("ReduceMax <axes = [-1]> (x)", "ReduceMax <axes = [-1]> (z)"),
    ],
)
def test_no_softmax(old: str, new: str) -> None:
    body = SOFTMAXES["div"].replace(old, new, 1)
    outcome = apply_to(body, x="float[3, 3, 3]", z=np.zeros((3, 3, 3), np.float32))
    assert not outcome.result.modified


@pytest.mark.parametrize(
    ("rest", "operator"),
    [("y = Div (e, s)", "Softmax"), ("l = Log (s) y = Sub (x, l)", "LogSoftmax")],
)
def test_a_softmax_that_overflows_stays(rest: str, operator: str) -> None:
    outcome = apply_to(f"e = Exp (x) s = ReduceSum (e, i) {rest}")
    assert not outcome.result.modified
    assert [r.partition(": ")[2] for r in reasons(outcome)] == [
        f"exp(x) overflows for large x, where {operator} does not: no maximum is taken away before"
    ]


def test_log_of_softmax_is_no_log_softmax() -> None:
    outcome = apply_to("s = Softmax (x) y = Log (s)")
    assert not outcome.result.modified
    assert reasons(outcome) == [
        "log-softmax: Log(Softmax) is -inf where the Softmax is 0, and LogSoftmax is not"
    ]
