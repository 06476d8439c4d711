"""eliminate-noops: copies and conversions, and where the users of one end up."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from rewriting import Outcome, apply, held

from graphopt_passes.eliminate_noops import EliminateNoops

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'
X = np.float32([-1, 2])


def eliminate(text: str, edit: Callable[[onnx.ModelProto], object] | None = None) -> Outcome:
    return apply(EliminateNoops(), text, edit)


# --- Identity -------------------------------------------------------------------------------------


def test_a_chain_of_identities_goes() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] y) "
        "{ a = Identity (x) \n b = Relu (a) \n c = Identity (b) \n y = Identity (c) }"
    )
    assert outcome.operators == ["Relu"]
    assert outcome.rewrites == {"noop-identity": 3}
    assert outcome.agrees({"x": X})


def test_an_identity_between_input_and_output_stays() -> None:
    outcome = eliminate(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Identity (x) }}")
    assert not outcome.result.modified


def test_an_identity_between_an_initializer_and_an_output_stays() -> None:
    outcome = eliminate(
        f"{HEAD} g () => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Identity (w) }}"
    )
    assert not outcome.result.modified


def test_two_outputs_of_one_value_keep_their_names() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] p, float[2] q) "
        "{ r = Relu (x) \n p = Identity (r) \n q = Identity (r) }"
    )
    assert outcome.operators == ["Relu", "Identity"]
    assert outcome.agrees({"x": X})


def test_an_identity_of_an_output_that_is_used_goes() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] p, float[2] q) "
        "{ p = Relu (x) \n i = Identity (p) \n q = Neg (i) }"
    )
    assert outcome.operators == ["Relu", "Neg"]
    assert outcome.agrees({"x": X})


BRANCHES = (
    HEAD
    + """
    g (bool b, float[2] x) => (float[2] y) {
        r = Relu (x)
        i = Identity (r)
        y = If (b) <
            then_branch = t () => (float[2] u) {
                j = Identity (i)
                n = Neg (j)
                u = Identity (n)
            },
            else_branch = e () => (float[2] v) { v = Identity (i) }
        >
    }"""
)


def test_identities_in_and_out_of_subgraphs() -> None:
    outcome = eliminate(BRANCHES)
    # The else branch gives a value of the outer graph: something has to produce it there.
    assert outcome.all_operators == {"Relu": 1, "If": 1, "Neg": 1, "Identity": 1}
    for chosen in (True, False):
        assert outcome.agrees({"b": np.array(chosen), "x": X})


def test_identities_of_a_loop_body_s_own_values_stay() -> None:
    outcome = eliminate(
        f"""{HEAD} g (int64 n, float[1] x) => (float[1] y) <bool c = {{1}}> {{
            y = Loop (n, c, x) <body = b (int64 i, bool go, float[1] h)
                => (bool again, float[1] next) {{
                again = Identity (go)
                k = Identity (h)
                s = Add (k, k)
                next = Identity (s)
            }}>
        }}"""
    )
    assert outcome.all_operators == {"Loop": 1, "Identity": 1, "Add": 1}
    assert outcome.agrees({"n": np.array(3), "x": np.float32([1])})


def test_functions() -> None:
    outcome = eliminate(
        """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) { y = own.f (x) }
        <domain: "own", opset_import: ["" : 16]>
        f (a) => (b) { c = Identity (a) \n d = Dropout (c) \n e = Relu (d) \n b = Identity (e) }
        """
    )
    assert outcome.all_operators == {"f": 1, "Relu": 1}
    assert outcome.agrees({"x": X})


def test_functions_that_replace_operators_are_not_taken_for_them() -> None:
    outcome = eliminate(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) { a = Identity (x) \n b = Relu (a) \n y = Dropout (b) }
        <domain: "ai.onnx", opset_import: ["" : 17]> Identity (a) => (b) { b = Neg (a) }
        <domain: "ai.onnx", opset_import: ["" : 17]> Dropout (a) => (b) { b = Exp (a) }
        """
    )
    assert not outcome.result.modified
    assert len(outcome.after.functions) == 2


def test_custom_operators_of_known_names_stay() -> None:
    outcome = eliminate(
        '<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) '
        "{ a = own.Identity (x) \n b = own.Dropout (a) \n y = Relu (b) }"
    )
    assert not outcome.result.modified


def test_what_is_recorded_of_a_value_stays() -> None:
    def describe(model: onnx.ModelProto) -> None:
        model.doc_string, model.graph.doc_string = "the model", "the graph"
        model.metadata_props.add(key="author", value="someone")
        model.graph.node[0].doc_string = "a node"
        model.graph.node[0].metadata_props.add(key="layer", value="1")

    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] y) {{ r = Relu (x) \n y = Identity (r) }}", describe
    )
    after = outcome.after
    assert (after.doc_string, after.graph.doc_string) == ("the model", "the graph")
    assert after.metadata_props[0].value == "someone"
    assert after.graph.node[0].doc_string == "a node"
    assert after.graph.node[0].metadata_props[0].value == "1"


# --- Dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opset", "node", "goes"),
    [
        (1, "Dropout <is_test = 1> (r)", True),
        (6, "Dropout <is_test = 1> (r)", True),
        (6, "Dropout <is_test = 0> (r)", False),
        (6, "Dropout (r)", False),  # training, by default
        (7, "Dropout <ratio = 0.5> (r)", True),
        (10, "Dropout (r)", True),
        (11, "Dropout (r)", True),
        (12, "Dropout (r)", True),
        (13, "Dropout (r, half)", True),
        (13, "Dropout (r, half, no)", True),
        (13, "Dropout (r, half, yes)", False),
        (22, "Dropout (r, , no)", True),
    ],
)
def test_dropout(opset: int, node: str, goes: bool) -> None:
    outcome = eliminate(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2] x) => (float[2] y) '
        f"<float half = {{0.5}}, bool yes = {{1}}, bool no = {{0}}> "
        f"{{ r = Relu (x) \n d = {node} \n y = Neg (d) }}"
    )
    assert ("Dropout" not in outcome.operators) == goes
    if goes:
        assert outcome.operators == ["Relu", "Neg"]
    if goes and opset >= 7:
        assert outcome.agrees({"x": X})


def test_a_training_mode_that_is_fed_stays() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x, bool t) => (float[2] y) {{ d = Dropout (x, , t) \n y = Relu (d) }}"
    )
    assert not outcome.result.modified


@pytest.mark.parametrize("mask", ["y, m = Dropout (r)", "d, m = Dropout (r) \n y = Neg (d)"])
def test_a_dropout_whose_mask_is_used_stays(mask: str) -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] y, bool[2] m) {{ r = Relu (x) \n {mask} }}"
    )
    assert "Dropout" in outcome.operators
    assert outcome.agrees({"x": X})


def test_a_dropout_whose_mask_is_unused_goes() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x) => (float[2] y) "
        "{ r = Relu (x) \n d, m = Dropout (r) \n y = Neg (d) }"
    )
    assert outcome.operators == ["Relu", "Neg"]


# --- Cast -----------------------------------------------------------------------------------------


def test_casts_to_the_same_type_go() -> None:
    outcome = eliminate(
        f"""{HEAD} g (float[2] x, float[2] z) => (float[2] y) {{
            a = Cast <to = 1> (x)
            b = Neg (a)
            c = Cast <to = 1> (b)
            d = CastLike (c, z)
            y = Relu (d)
        }}"""
    )
    assert outcome.operators == ["Neg", "Relu"]
    assert outcome.agrees({"x": X, "z": X})


def test_casts_to_another_type_stay() -> None:
    outcome = eliminate(
        f"{HEAD} g (float[2] x, double[2] z) => (double[2] y) "
        "{ a = Cast <to = 10> (x) \n b = Neg (a) \n c = CastLike (b, z) \n y = Relu (c) }"
    )
    assert outcome.operators == ["Cast", "Neg", "CastLike", "Relu"]


def test_casts_behind_operators_of_unknown_types_stay() -> None:
    outcome = eliminate(
        '<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) '
        "{ a = own.f (x) \n b = Cast <to = 1> (a) \n y = Relu (b) }"
    )
    assert not outcome.result.modified


def test_casts_in_functions_stay() -> None:
    outcome = eliminate(
        """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) { y = own.f (x) }
        <domain: "own", opset_import: ["" : 17]> f (a) => (b) {
            c = Cast <to = 1> (a)
            b = Relu (c)
        }
        """
    )
    assert not outcome.result.modified


def test_a_cast_to_float8_that_it_is_already_goes() -> None:
    w = np.array([1, 2]).astype(ml_dtypes.float8_e4m3fn)
    outcome = apply(
        EliminateNoops(),
        '<ir_version: 10, opset_import: ["" : 19]> g () => (float[2] y) '
        "{ a = Cast <to = 17, saturate = 0> (w) \n y = Cast <to = 1> (a) }",
        held("w", w),
    )
    assert outcome.operators == ["Cast"]
