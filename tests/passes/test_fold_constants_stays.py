"""What fold-constants leaves as it is."""

from __future__ import annotations

import numpy as np
import pytest
from folding import HEAD, fold, overridable


@pytest.mark.parametrize(
    "node",
    [
        'c = Constant <value_string = "word"> ()\n y = Identity (c)',
        'c = Constant <value_strings = ["a", "b"]> ()\n y = Identity (c)',
    ],
)
def test_string_constants_stay(node: str) -> None:
    kind = "string" if "value_string =" in node else "string[2]"
    outcome = fold(f"{HEAD} g () => ({kind} y) {{ {node} }}")
    assert outcome.operators == ["Constant", "Identity"]


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] c) "
        "{ c = Constant <value = float[2] {1, 2}> () \n y = Add (x, c) }"
    )
    assert outcome.operators == ["Constant", "Add"]
    assert not outcome.result.modified


def test_functions_keep_their_constants() -> None:
    outcome = fold(
        """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) { y = own.f (x) }
        <domain: "own", opset_import: ["" : 17]>
        f (a) => (b) {
            c = Constant <value = float[1] {2}> ()
            d = Neg (c)
            b = Mul (a, d)
        }"""
    )
    assert not outcome.result.modified


# --- barriers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        "RandomNormal <shape = [2]> ()",
        "RandomUniform <shape = [2]> ()",
        "RandomNormalLike (w)",
        "RandomUniformLike (w)",
        "Bernoulli (w)",
        "Dropout (w, half, yes)",
    ],
)
def test_random_operators_stay(node: str) -> None:
    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y) "
        f"<float[2] w = {{0.5, 0.5}}, float half = {{0.5}}, bool yes = {{1}}> "
        f"{{ r = {node} \n y = Add (x, r) }}"
    )
    assert not outcome.result.modified


def test_quantized_weights_stay_quantized() -> None:
    outcome = fold(
        f"""{HEAD} g (float[N, 2] x) => (float[N, 2] y)
        <int8[2, 2] w = {{1, 2, 3, 4}}, float s = {{0.5}}, int8 z = {{0}}, float[2] f = {{1, 2}}> {{
            d = DequantizeLinear (w, s, z)
            q = QuantizeLinear (f, s, z)
            e = DequantizeLinear (q, s, z)
            m = MatMul (x, d)
            y = Add (m, e)
        }}"""
    )
    assert not outcome.result.modified


def test_custom_operators_of_known_names_stay() -> None:
    outcome = fold(
        """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            n = own.Neg (w)
            y = Add (x, n)
        }"""
    )
    assert not outcome.result.modified


def test_a_function_that_replaces_an_operator_stays() -> None:
    outcome = fold(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, int64[1] i = {3}> {
            n = Neg (w)
            s = Shape (w)
            t = Cast <to = 1> (s)
            u = Add (x, n)
            y = Add (u, t)
        }
        <domain: "ai.onnx", opset_import: ["" : 17]> Neg (a) => (b) { b = Abs (a) }
        <domain: "ai.onnx", opset_import: ["" : 17]> Shape (a) => (b) {
            b = Constant <value = int64[1] {7}> ()
        }"""
    )
    assert outcome.operators == ["Neg", "Shape", "Cast", "Add", "Add"]


def test_control_flow_stays() -> None:
    outcome = fold(
        f"""{HEAD} g (float[1] x) => (float[1] y) <bool b = {{1}}, float[1] w = {{2}}> {{
            r = If (b) <then_branch = t () => (float[1] u) {{ u = Neg (w) }},
                        else_branch = e () => (float[1] v) {{ v = Abs (w) }}>
            y = Add (x, r)
        }}"""
    )
    assert outcome.operators == ["If", "Add"]
    assert outcome.all_operators["Constant"] == 2  # outputs of the branches
    assert outcome.agrees({"x": np.float32([1])})


def test_a_default_value_is_no_constant() -> None:
    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y) {{ n = Neg (w) \n y = Add (x, n) }}",
        overridable("w", np.float32([1, 2])),
    )
    assert not outcome.result.modified


def test_an_initializer_that_is_an_output_stays() -> None:
    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {{1, 2}}> "
        "{ n = Neg (w) \n y = Add (x, n) }"
    )
    assert outcome.operators == ["Add"]
    assert set(outcome.initializers) == {"w", "n"}
    assert outcome.agrees({"x": np.float32([1, 2])})
