"""fuse-activations: Gelu by erf and by tanh."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from formulas import EDGES, error, formula, fuse, random, reasons
from rewriting import Outcome

from graphopt_passes.fuse_activations import FuseActivations

NUMBERS = {
    "h": 0.5,
    "o": 1.0,
    "q": 2**0.5,
    "r": 0.5**0.5,
    "t": 3.0,
    "k": 0.044715,
    "s": 0.7978845608,
}
NUMBERS |= {"w": 2.0, "n": -1.0}

ERF = {
    "torch": "d = Div (x, q) e = Erf (d) a = Add (e, o) m = Mul (x, a) y = Mul (m, h)",
    "dynamo": "d = Mul (x, r) e = Erf (d) a = Add (e, o) m = Mul (h, x) y = Mul (m, a)",
    "keras": "m = Mul (h, x) d = Div (x, q) e = Erf (d) a = Add (o, e) y = Mul (m, a)",
    "half of the gate": "d = Mul (r, x) e = Erf (d) a = Add (o, e) m = Mul (a, h) y = Mul (m, x)",
    "halved terms": "d = Mul (r, x) e = Erf (d) f = Mul (e, h) a = Add (f, h) y = Mul (a, x)",
    "onnx": "d = Div (x, q) e = Erf (d) a = Sum (o, e) m = Mul (h, x) y = Mul (m, a)",
    "by two": "d = Div (x, q) e = Erf (d) a = Add (e, o) m = Mul (x, a) y = Div (m, w)",
    "complement": "d = Div (x, q) z = Neg (d) e = Erf (z) a = Sub (o, e) m = Mul (x, a) "
    "y = Mul (m, h)",
}
INNER = "p = Pow (x, t) c = Mul (p, k) b = Add (x, c) i = Mul (b, s)"
TANH = {
    "gpt2": f"{INNER} e = Tanh (i) a = Add (e, o) m = Mul (x, h) y = Mul (m, a)",
    "torch": f"{INNER} e = Tanh (i) a = Add (e, o) m = Mul (x, a) y = Mul (m, h)",
    "jax": "c = Mul (k, x) f = Mul (x, c) l = Mul (x, f) b = Add (x, l) i = Mul (s, b) "
    "e = Tanh (i) a = Add (o, e) m = Mul (h, a) y = Mul (x, m)",
    "cube of products": "u = Mul (x, x) p = Mul (u, x) c = Mul (k, p) b = Add (c, x) "
    "i = Mul (b, s) e = Tanh (i) a = Add (o, e) m = Mul (h, a) y = Mul (x, m)",
    "factored": "u = Mul (x, x) c = Mul (k, u) f = Add (o, c) b = Mul (x, s) i = Mul (b, f) "
    "e = Tanh (i) a = Add (o, e) m = Mul (h, x) y = Mul (m, a)",
}


def gelu(body: str, opset: int = 20, **changed: float | np.ndarray) -> Outcome:
    used = {n: c for n, c in {**NUMBERS, **changed}.items() if f"{n})" in body or f"{n}," in body}
    return fuse(FuseActivations(), formula(body, opset, x="float[2, 8]", **used))


@pytest.mark.parametrize("body", ERF.values(), ids=ERF)
def test_gelu_by_erf(body: str) -> None:
    outcome = gelu(body)
    assert outcome.operators == ["Gelu"]
    assert outcome.rewrites == {"gelu": 1}
    assert not outcome.after.graph.node[0].attribute
    assert not outcome.initializers
    assert error(outcome, random(2, 8)) < 2e-7
    assert error(outcome, EDGES.reshape(2, 8)) < 1e-6


@pytest.mark.parametrize("body", TANH.values(), ids=TANH)
def test_gelu_by_tanh(body: str) -> None:
    outcome = gelu(body)
    assert outcome.operators == ["Gelu"]
    assert outcome.rewrites == {"gelu": 1}
    (attribute,) = outcome.after.graph.node[0].attribute
    assert (attribute.name, attribute.s) == ("approximate", b"tanh")
    assert error(outcome, random(2, 8)) < 3e-7


@pytest.mark.parametrize(
    "changed",
    [
        {"q": 1.4142},
        {"o": 1.001},
        {"h": 0.25},
        {"h": -0.5},
        {"q": np.full((8,), 2**0.5, np.float32)},
    ],
    ids=str,
)
def test_other_numbers_are_another_function(changed: dict[str, float]) -> None:
    outcome = gelu(ERF["torch"], **changed)
    assert not outcome.result.modified
    assert not outcome.result.declined


@pytest.mark.parametrize("changed", [{"t": 2.0}, {"k": 0.04}, {"s": 0.8}, {"h": 1.0}], ids=str)
def test_other_numbers_are_another_function_by_tanh(changed: dict[str, float]) -> None:
    assert not gelu(TANH["gpt2"], **changed).result.modified


@pytest.mark.parametrize(
    "body",
    [
        "d = Div (x, q) e = Erf (d) a = Sub (e, o) m = Mul (x, a) y = Mul (m, h)",
        "d = Div (x, q) e = Erf (d) a = Sub (o, e) m = Mul (x, a) y = Mul (m, h)",
        "d = Div (x, q) e = Tanh (d) a = Add (e, o) m = Mul (x, a) y = Mul (m, h)",
        "d = Div (x, q) z = Add (d, o) e = Erf (z) a = Add (e, o) m = Mul (x, a) y = Mul (m, h)",
        "z = Abs (x) d = Div (z, q) e = Erf (d) a = Add (e, o) m = Mul (x, a) y = Mul (m, h)",
    ],
)
def test_look_alikes(body: str) -> None:
    assert not gelu(body).result.modified


def test_a_coarse_constant_of_ten_digits_is_what_it_stands_for() -> None:
    assert gelu(ERF["torch"], q=1.41421356).operators == ["Gelu"]
    assert gelu(TANH["gpt2"], s=0.79788456).operators == ["Gelu"]


@pytest.mark.parametrize("name", ["d", "e", "a", "m"])
def test_a_value_that_is_seen_elsewhere_stays(name: str) -> None:
    body = f"{ERF['torch'].replace('y =', 'v =')} z = Neg ({name}) y = Add (v, z)"
    outcome = gelu(body)
    assert not outcome.result.modified
    assert reasons(outcome) == [f"gelu: '{name}' in the midst of it is used elsewhere too"]


def test_an_output_in_the_midst_stays() -> None:
    model = formula(ERF["torch"], 20, x="float[2, 8]", h=0.5, o=1.0, q=2**0.5)
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "a"
    outcome = fuse(FuseActivations(), model)
    assert not outcome.result.modified
    assert reasons(outcome) == ["gelu: 'a' in the midst of it is an output of the graph"]


@pytest.mark.parametrize("body", [ERF["torch"], TANH["gpt2"]])
def test_an_older_opset_is_told_what_to_do(body: str) -> None:
    outcome = gelu(body, 17)
    assert not outcome.result.modified
    assert [reason.partition(": ")[2] for reason in reasons(outcome)] == [
        "Gelu needs opset 20 (the model has 17): run set-opset{version=20} first"
    ]


def test_a_number_of_higher_rank_changes_the_shape() -> None:
    model = formula(
        ERF["torch"], 20, x="float[8]", y="float[1, 8]", o=1.0, q=2**0.5,
        h=np.array([[0.5]], np.float32),
    )  # fmt: skip
    assert not fuse(FuseActivations(), model).result.modified


def test_a_default_that_a_caller_may_change_is_no_constant() -> None:
    model = formula(ERF["torch"], 20, x="float[2, 8]", h=0.5, o=1.0, q=2**0.5)
    model.graph.input.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, []))
    assert not fuse(FuseActivations(), model).result.modified


@pytest.mark.parametrize(("body", "limit"), [(ERF["torch"], 2e-3), (TANH["gpt2"], 2e-3)])
def test_float16(body: str, limit: float) -> None:
    used = {n: np.array(c, np.float16) for n, c in NUMBERS.items() if f" {n})" in body}
    outcome = fuse(FuseActivations(), formula(body, 20, x="float16[2, 8]", **used))
    assert outcome.operators == ["Gelu"]
    assert error(outcome, random(2, 8, dtype=np.float16)) < limit


def test_x_may_itself_be_a_multiple() -> None:
    outcome = gelu(f"z = Mul (x, w) {ERF['torch'].replace('(x,', '(z,')}")
    assert outcome.operators == ["Mul", "Gelu"]
    assert error(outcome, random(2, 8)) < 2e-7


def test_in_a_branch_that_captures_x() -> None:
    body = """
    c = Constant <value = bool {1}> ()
    y = If (c) <
        then_branch = a () => (float[2, 8] u) { d = Div (x, q) e = Erf (d) f = Add (e, o)
                                                m = Mul (x, f) u = Mul (m, h) },
        else_branch = b () => (float[2, 8] v) { v = Identity (x) }
    >"""
    outcome = gelu(body)
    assert outcome.all_operators["Gelu"] == 1
    assert outcome.all_operators["Erf"] == 0
    assert error(outcome, random(2, 8)) < 2e-7


def test_an_operator_of_the_same_name_is_no_gelu() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20, "own" : 1]>
    g (float[2, 8] x) => (float[2, 8] y) <float h = {0.5}, float o = {1}, float q = {1.4142135}>
    { d = Div (x, q) e = own.Erf (d) a = Add (e, o) m = Mul (x, a) y = Mul (m, h) }
    <domain: "own", opset_import: ["" : 20]> Erf (a) => (b) { b = Tanh (a) }"""
    assert not fuse(FuseActivations(), onnx.parser.parse_model(text)).result.modified
