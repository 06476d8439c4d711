"""fold-constants: what it folds, to the bit, and what it must leave alone."""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import pytest
from folding import HEAD, fold
from onnx import TensorProto, helper
from rewriting import apply, both, held

import graphopt_passes.fold_constants.evaluate as evaluate_module
from graphopt.ir import load
from graphopt.pipeline.base import PassContext
from graphopt_passes.fold_constants import FoldConstants

# --- Constant nodes -------------------------------------------------------------------------------


def test_constant_nodes_become_initializers_of_the_same_name() -> None:
    outcome = fold(
        HEAD
        + """
        g (float[N, 2] x) => (float[N, 2] y) {
            a = Constant <value = float[2] {1, 2}> ()
            b = Constant <value_floats = [3.0, 4.0]> ()
            c = Constant <value_int = 2> ()
            d = Cast <to = 1> (c)
            s = Add (x, a)
            t = Mul (s, b)
            y = Mul (t, d)
        }"""
    )
    assert outcome.operators == ["Add", "Mul", "Mul"]
    assert set(outcome.initializers) == {"a", "b", "d"}
    assert outcome.initializers["d"].shape == ()
    assert outcome.rewrites == {"constant-to-initializer": 3, "fold": 1}
    assert outcome.agrees({"x": np.float32([[0.1, 0.2]])})


def test_constants_in_subgraphs_are_lifted_there() -> None:
    outcome = fold(IF_MODEL)
    assert outcome.all_operators["Constant"] == 0
    assert outcome.rewrites["constant-to-initializer"] == 2
    branches = {a.name: a.g for a in outcome.after.graph.node[-1].attribute}
    assert [t.name for t in branches["then_branch"].initializer] == ["folded"]
    assert [t.name for t in branches["else_branch"].initializer] == ["q"]
    for chosen in (True, False):
        assert outcome.agrees({"b": np.array(chosen), "x": np.float32([1, -2])})


IF_MODEL = (
    HEAD
    + """
    g (bool b, float[2] x) => (float[2] y)
    <float[2] w = {3, 5}> {
        outer = Neg (w)
        y = If (b) <
            then_branch = t () => (float[2] u) {
                p = Constant <value = float[2] {1, 2}> ()
                folded = Add (p, outer)
                u = Mul (x, folded)
            },
            else_branch = e () => (float[2] v) {
                q = Constant <value = float[2] {7, 8}> ()
                v = Add (x, q)
            }
        >
    }"""
)


def test_folding_reaches_into_branches_with_captured_constants() -> None:
    outcome = fold(IF_MODEL)
    assert outcome.operators == ["If"]
    assert outcome.all_operators == {"If": 1, "Mul": 1, "Add": 1}


def test_identities_of_constants_are_skipped_without_a_copy() -> None:
    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] w2) <float[2] w = {{1, 2}}> "
        "{ a = Identity (w) \n w2 = Identity (w) \n t = Add (x, a) \n y = Add (t, w) }"
    )
    assert "skip-identity-of-constant" in outcome.rewrites
    assert list(outcome.initializers) == ["w"]
    assert outcome.agrees({"x": np.float32([1, 2])})


# --- evaluation -----------------------------------------------------------------------------------


def test_folded_values_are_exact() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, 7)).astype(np.float32)
    b = rng.standard_normal(7).astype(np.float32)
    outcome = fold(
        f"""{HEAD} g (float[N, 7] x) => (float[N, 5] y) {{
            e = Exp (b)
            s = Mul (w, e)
            r = Softmax <axis = 1> (s)
            t = Transpose <perm = [1, 0]> (r)
            y = MatMul (x, t)
        }}""",
        both(held("w", w), held("b", b)),
    )
    assert outcome.operators == ["MatMul"]
    assert list(outcome.initializers) == ["t"]
    assert outcome.agrees({"x": rng.standard_normal((3, 7)).astype(np.float32)})
    product = w.astype(np.float64) * np.exp(b.astype(np.float64))
    softmax = np.exp(product - product.max(1, keepdims=True))
    expected = (softmax / softmax.sum(1, keepdims=True)).T
    np.testing.assert_allclose(outcome.initializers["t"], expected, rtol=1e-5)


def test_float16_is_rounded_at_every_node() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(1000).astype(np.float16) for _ in range(2))
    outcome = fold(
        f"{HEAD} g (float16[1000] x) => (float16[1000] y) "
        "{ p = Mul (a, b) \n q = Mul (p, b) \n r = Add (q, p) \n y = Add (x, r) }",
        both(held("a", a), held("b", b)),
    )
    product = a * b
    np.testing.assert_array_equal(outcome.initializers["r"], product * b + product)


def count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    session = evaluate_module.Session

    def counting(model: object, **options: object) -> object:
        sizes.append(len(list(model.graph)))  # type: ignore[attr-defined]
        return session(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_module, "Session", counting)
    return sizes


def test_a_whole_region_takes_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = count_sessions(monkeypatch)
    steps = "\n".join(f"c{i + 1} = Neg (c{i})" for i in range(100))
    others = "\n".join(f"d{i} = Exp (c{i})" for i in range(50))
    sums = "\n".join(f"s{i + 1} = Add (s{i}, d{i})" for i in range(50))
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[2] s0) => (float[2] y) <float[2] c0 = {{1, 2}}> "
        f"{{ {steps} {others} {sums} \n y = Add (s50, c100) }}"
    )
    result = FoldConstants().run(load(model), PassContext())
    assert result.rewrites == {"fold": 150}
    assert sizes == [150]


def test_what_the_evaluator_lacks_does_not_keep_the_rest_from_being_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = count_sessions(monkeypatch)
    good = "\n".join(f"a{i + 1} = Neg (a{i})" for i in range(40))
    bad = "\n".join(f"b{i + 1} = Max (b{i}, b{i})" for i in range(20))  # no int16 kernel
    outcome = fold(
        f"{HEAD} g (float[1] x, int16[1] z) => (float[1] y, int16[1] w) "
        f"<float[1] a0 = {{1}}, int16[1] b0 = {{1}}> "
        f"{{ {good} {bad} \n y = Add (x, a40) \n w = Max (z, b20) }}"
    )
    assert outcome.operators == ["Max"] * 20 + ["Add", "Max"]
    assert "20 constant nodes" in outcome.notes
    assert "does not have it for these types" in outcome.notes
    assert len(sizes) < 3 * 20


def test_a_node_that_fails_stays() -> None:
    outcome = fold(
        f"{HEAD} g (float[1] x) => (float[1] y) <float[3] w = {{1, 2, 3}}, int64[1] i = {{9}}> "
        "{ g = Gather (w, i) \n n = Neg (w) \n s = ReduceSum <keepdims = 0> (n) \n"
        "  t = Add (x, g) \n y = Add (t, s) }"
    )
    assert outcome.operators == ["Gather", "Add", "Add"]
    assert "'' (Gather) left to run time, since it fails on these values" in outcome.notes


@pytest.mark.parametrize(("divisor", "folds"), [("2", True), ("0", False), ("-1", False)])
def test_integer_division_that_could_trap_is_not_tried(divisor: str, folds: bool) -> None:
    big = np.full(100, -(2**63), np.int64)  # too long for shape arithmetic
    for op in ("Div", "Mod"):
        outcome = fold(
            f"{HEAD} g (int64[100] x) => (int64[100] y) <int64[1] d = {{{divisor}}}> "
            f"{{ e = Identity (d) \n q = {op} (big, e) \n y = Add (x, q) }}",
            held("big", big),
        )
        assert (op not in outcome.operators) == folds


def test_a_divisor_that_is_computed_is_looked_at_first() -> None:
    for start, left in (("1", ["Add"]), ("0", ["Div", "Add"])):
        outcome = fold(
            f"{HEAD} g (int64[2] x) => (int64[2] y) "
            f"<int64[2,2] m = {{{start}, 2, 3, 4}}, int64[2,2] n = {{8, 8, 8, 8}}> "
            "{ d = Abs (m) \n q = Div (n, d) \n r = ReduceSum <keepdims = 0> (q, a) "
            "\n y = Add (x, r) }",
            held("a", np.int64([0])),
        )
        assert [op for op in outcome.operators if op != "ReduceSum"] == left


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4],
    ids=["bfloat16", "float8", "int4"],
)
def test_types_that_numpy_lacks_are_moved_but_not_computed(dtype: type) -> None:
    w = np.array([[1, 2], [3, 4]]).astype(dtype)
    kind = TensorProto.DataType.Name(onnx.numpy_helper.from_array(w).data_type)
    names = {"BFLOAT16": "bfloat16", "FLOAT8E4M3FN": "float8e4m3fn", "INT4": "int4"}
    outcome = apply(
        FoldConstants(),
        f'<ir_version: 10, opset_import: ["" : 21]> g () => ({names[kind]}[2, 2] y, float[2, 2] z) '
        "{ t = Transpose <perm = [1, 0]> (w) \n u = Concat <axis = 1> (t, t) "
        "\n f = Constant <value = int64[1] {2}> () \n e = Constant <value = int64[1] {4}> () "
        "\n a = Constant <value = int64[1] {1}> () \n y = Slice (u, f, e, a) "
        "\n z = Cast <to = 1> (t) }",
        held("w", w),
    )
    assert Counter(outcome.operators) == {"Constant": 1, "Cast": 1}
    (constant,) = (n for n in outcome.after.graph.node if n.op_type == "Constant")
    moved = onnx.numpy_helper.to_array(constant.attribute[0].t)
    assert moved.dtype == w.dtype
    assert moved.tobytes() == np.ascontiguousarray(w.T).tobytes()


def test_empty_tensors() -> None:
    outcome = fold(
        f"{HEAD} g (float[N, 3] x) => (float[M, 3] y) "
        "{ n = Neg (none) \n c = Concat <axis = 0> (n, n) \n y = Concat <axis = 0> (x, c) }",
        held("none", np.zeros((0, 3), np.float32)),
    )
    assert outcome.operators == ["Concat"]
    assert outcome.initializers["c"].shape == (0, 3)
    assert outcome.agrees({"x": np.ones((2, 3), np.float32)})


# --- graph outputs --------------------------------------------------------------------------------


def test_a_folded_output_stays_an_output() -> None:
    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y, float n, int64[1] s) <float[3] w = {{1, 2, 3}}> "
        "{ n = ReduceSum <keepdims = 0> (w) \n s = Shape (w) \n y = Add (x, n) }"
    )
    assert outcome.operators == ["Constant", "Constant", "Add"]
    assert outcome.agrees({"x": np.float32([1, 2])})


def test_metadata_of_a_folded_value_is_kept() -> None:
    def describe(model: onnx.ModelProto) -> None:
        info = helper.make_tensor_value_info("n", TensorProto.FLOAT, [2], doc_string="negated")
        info.metadata_props.add(key="layer", value="head")
        model.graph.value_info.append(info)

    outcome = fold(
        f"{HEAD} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> "
        "{ n = Neg (w) \n y = Add (x, n) }",
        describe,
    )
    (info,) = outcome.after.graph.value_info
    assert (info.name, info.doc_string) == ("n", "negated")
    assert info.metadata_props[0].value == "head"


# --- old models -----------------------------------------------------------------------------------


def test_ir_version_3_gets_constant_nodes() -> None:
    outcome = fold(
        '<ir_version: 3, opset_import: ["" : 9]> g (float[2] x) => (float[2] y) '
        "{ c = Constant <value = float[2] {1, 2}> () \n n = Neg (c) \n y = Add (x, n) }"
    )
    assert outcome.operators == ["Constant", "Constant", "Add"]
    assert not outcome.after.graph.initializer
    assert outcome.agrees({"x": np.float32([1, 2])})


def test_integers_do_not_become_constant_nodes_before_opset_9() -> None:
    outcome = fold(
        '<ir_version: 4, opset_import: ["" : 7]> g (float[2, 3] x) => (int64[2] s, float[2, 3] y) '
        "{ s = Shape (x) \n t = Shape (x) \n y = Reshape (x, t) }"
    )
    assert outcome.operators == ["Shape", "Reshape"]
    assert list(outcome.initializers) == ["t"]


def test_options() -> None:
    assert str(FoldConstants()) == "fold-constants"
    assert str(FoldConstants(max_growth=5)) == "fold-constants{max_growth=5}"
    with pytest.raises(ValueError, match="a number of bytes"):
        FoldConstants(max_growth=-1)
