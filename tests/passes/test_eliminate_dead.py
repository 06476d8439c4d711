"""eliminate-dead: what it removes, and what has to stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper
from rewriting import Outcome, apply, held

from graphopt_passes.eliminate_dead import EliminateDead

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'
X = np.float32([-1, 2])


def eliminate(text: str, edit: Callable[[onnx.ModelProto], object] | None = None) -> Outcome:
    return apply(EliminateDead(), text, edit)


def test_unused_nodes_and_initializers_go() -> None:
    outcome = eliminate(
        f"""{HEAD} g (float[2] x, float[2] spare) => (float[2] y)
        <float[2] w = {{1, 2}}, float[2] v = {{3, 4}}> {{
            a = Exp (x)
            b = Mul (a, w)
            c = Add (x, v)
            y = Relu (c)
            d = RandomNormalLike (b)
        }}"""
    )
    assert outcome.operators == ["Add", "Relu"]
    assert list(outcome.initializers) == ["v"]
    assert [i.name for i in outcome.after.graph.input] == ["x", "spare"]
    assert outcome.rewrites == {"unused-initializer": 1, "unused-node": 3}


def test_a_node_that_only_an_unused_branch_captures_goes() -> None:
    outcome = eliminate(
        f"""{HEAD} g (bool b, float[2] x) => (float[2] y) {{
            e = Exp (x)
            u = If (b) <then_branch = t () => (float[2] p) {{ p = Neg (e) }},
                        else_branch = f () => (float[2] q) {{ q = Abs (e) }}>
            y = Relu (x)
        }}"""
    )
    assert outcome.operators == ["Relu"]
    assert outcome.rewrites == {"unused-node": 4}


def test_what_a_branch_captures_stays_and_what_it_does_not_use_goes() -> None:
    outcome = eliminate(
        f"""{HEAD} g (bool b, float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{
            e = Exp (x)
            f = Log (x)
            y = If (b) <
                then_branch = t () => (float[2] p) {{ p = Add (e, w) \n unused = Neg (f) }},
                else_branch = s () => (float[2] q) <float[2] inner = {{1, 2}}> {{ q = Abs (e) }}>
        }}"""
    )
    assert outcome.all_operators == {"Exp": 1, "If": 1, "Add": 1, "Abs": 1}
    assert list(outcome.initializers) == ["w"]
    assert outcome.rewrites == {"unused-initializer": 1, "unused-node": 2}


def test_default_values_of_inputs_stay() -> None:
    def default(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(X, "w"))
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))

    outcome = eliminate(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Relu (x) }}", default)
    assert not outcome.result.modified


def test_an_initializer_that_is_an_output_stays() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {{1, 2}}> "
        "{ y = Relu (x) }"
    )
    assert not outcome.result.modified


def test_ir_version_3_keeps_its_initializers() -> None:
    outcome = eliminate(
        '<ir_version: 3, opset_import: ["" : 9]> g (float[2] x, float[2] w) => (float[2] y) '
        "{ i = Neg (x) \n y = Relu (x) }",
        held("w", X),
    )
    assert outcome.operators == ["Relu"]
    assert list(outcome.initializers) == ["w"]


def test_unused_optional_outputs_stay() -> None:
    """Up to opset 13, a BatchNormalization with five outputs is one in training mode."""
    outcome = eliminate(
        '<ir_version: 7, opset_import: ["" : 9]> g (float[N, 1, 2, 2] x) => (float[N, 1, 2, 2] y) '
        "<float[1] s = {1}, float[1] b = {0}, float[1] m = {0}, float[1] v = {1}> "
        "{ y, mean, var, saved_mean, saved_var = BatchNormalization (x, s, b, m, v) }"
    )
    assert not outcome.result.modified


def test_unused_operators_of_unknown_domains_stay() -> None:
    outcome = eliminate(
        '<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) '
        "{ e = Exp (x) \n p = own.Print (e) \n y = Relu (x) }"
    )
    assert outcome.operators == ["Exp", "Print", "Relu"]
    assert "(own.Print)" in outcome.notes


def test_an_unused_call_of_a_function_goes_unless_it_may_do_something_else() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) {{ p = own.f (x) \n y = Relu (x) }}
        <domain: "own", opset_import: ["" : 17, "own" : 1]> f (a) => (b) {{ b = {op} (a) }}"""
    pure = eliminate(text.format(op="Exp"))
    assert pure.operators == ["Relu"]
    assert not pure.after.functions
    assert eliminate(text.format(op="own.Print")).operators == ["f", "Relu"]


FUNCTION = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
    g (float[2] x) => (float[2] y) { y = own.used (x) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]>
    used (a) => (b) { e = Exp (a) \n b = own.inner (a) }
    <domain: "own", opset_import: ["" : 17]> inner (a) => (b) { b = Relu (a) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> unused (a) => (b) { b = own.lost (a) }
    <domain: "own", opset_import: ["" : 17]> lost (a) => (b) { b = Relu (a) }
"""


def test_functions_that_nothing_calls_go() -> None:
    outcome = eliminate(FUNCTION)
    assert [f.name for f in outcome.after.functions] == ["used", "inner"]
    assert outcome.all_operators == {"used": 1, "inner": 1, "Relu": 1}
    assert outcome.rewrites == {"unused-function": 2, "unused-node": 1}
    assert outcome.agrees({"x": X})
