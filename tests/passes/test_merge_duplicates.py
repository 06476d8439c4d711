"""merge-duplicates: what is equal to the bit is kept once, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import serialized
from rewriting import Outcome, apply, both, held

from graphopt.ir import load, save
from graphopt.pipeline.base import PassContext
from graphopt_passes.merge_duplicates import MergeDuplicates

HEADER = '<ir_version: 8, opset_import: ["" : 17, "other" : 1, "local" : 1]>'
X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def merge(body: str, *edits, types: str = "float[2,3] x", out: str = "float[2,3] y") -> Outcome:
    source = f"{HEADER} g ({types}) => ({out}) {{ {body} }}"
    return apply(MergeDuplicates(), source, both(*edits))


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Exp(x) b = Exp(x) y = Add(a, b)", ["Exp", "Add"]),
        ("a = Exp(x) b = Exp(x) c = Neg(a) d = Neg(b) y = Add(c, d)", ["Exp", "Neg", "Add"]),
        ("a = Softmax<axis = -1>(x) b = Softmax(x) y = Add(a, b)", ["Softmax", "Add"]),
        ("a = Clip(x) b = Clip(x, , ) y = Add(a, b)", ["Clip", "Add"]),
        ("a = Exp(x) y = Exp(x) b = Neg(a)", ["Exp", "Neg"]),
        ("y = Exp(x) a = Exp(x) b = Neg(a)", ["Exp", "Neg"]),
    ],
    ids=["two", "chain", "default-attribute", "left-out-inputs", "output-second", "output-first"],
)
def test_equal_nodes_are_merged(body: str, left: list[str]) -> None:
    outcome = merge(body)
    assert outcome.operators == left
    assert outcome.agrees({"x": X})
    assert outcome.result.declined == ()


@pytest.mark.parametrize(
    "body",
    [
        "a = Softmax<axis = 0>(x) b = Softmax(x) y = Add(a, b)",
        "a = LeakyRelu<alpha = 0.0>(x) b = LeakyRelu<alpha = -0.0>(x) y = Sub(a, b)",
        "a = Sub(x, s) b = Sub(s, x) y = Add(a, b)",
        "a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b)",
        "a = RandomNormalLike<seed = 1.0>(x) b = RandomNormalLike<seed = 1.0>(x) y = Sub(a, b)",
        "a, m = Dropout(x) b = Dropout(x) y = Sub(a, b)",
        "a = Exp(x) b = other.Exp(x) y = Add(a, b)",
        "a = other.F(x) b = other.F(x) y = Add(a, b)",
    ],
    ids=[
        "attribute", "zero-sign", "order", "random", "seeded", "dropout", "domain", "unknown",
    ],
)  # fmt: skip
def test_unequal_or_unknown_nodes_stay(body: str) -> None:
    outcome = merge(body, held("s", np.float32([1, 2, 3])))
    assert not outcome.result.modified


def test_the_number_of_outputs_counts() -> None:
    outcome = merge(
        "a = MaxPool<kernel_shape = [1]>(x) b, i = MaxPool<kernel_shape = [1]>(x) y = Add(a, b)",
        types="float[1,2,3] x",
        out="float[1,2,3] y, int64[1,2,3] i",
    )
    assert outcome.operators == ["MaxPool", "MaxPool", "Add"]


def test_two_outputs_of_the_graph_stay_two() -> None:
    outcome = merge("y = Exp(x) z = Exp(x)", out="float[2,3] y, float[2,3] z")
    assert not outcome.result.modified
    (declined,) = outcome.result.declined
    assert "both give outputs" in declined.reason


def test_names_of_the_first_node_and_of_outputs_are_kept() -> None:
    outcome = merge("[first] a = Exp(x) b = Neg(a) [second] y = Exp(x)")
    assert [(n.name, list(n.output)) for n in outcome.after.graph.node] == [
        ("first", ["y"]),
        ("", ["b"]),
    ]


@pytest.mark.parametrize(
    ("op", "types", "merged"),
    [
        ("Add", "int32[3] a, int32[3] b", True),
        ("Max", "int32[3] a, int32[3] b", True),
        ("And", "bool[3] a, bool[3] b", True),
        ("Equal", "float[3] a, float[3] b", True),
        ("Sub", "int32[3] a, int32[3] b", False),
        ("Max", "float[3] a, float[3] b", False),
        ("Add", "float[3] a, float[3] b", False),
    ],
)
def test_operands_in_either_order(op: str, types: str, merged: bool) -> None:
    dtype = "bool" if op in ("And", "Equal") else types.split("[")[0]
    outcome = merge(
        f"y = {op}(a, b) z = {op}(b, a) u = Identity(z)",
        types=types,
        out=f"{dtype}[3] y, {dtype}[3] u",
    )
    assert outcome.operators.count(op) == (1 if merged else 2)
    kinds = {"int32": np.int32([1, -2, 3]), "bool": np.array([True, False, True])}
    array = kinds.get(types.split("[")[0], np.float32([0.0, np.nan, 1]))
    assert outcome.agrees({"a": array, "b": array[::-1].copy()})


@pytest.mark.parametrize(
    ("number", "merged"), [(1.5, True), (-0.0, True), (np.inf, True), (np.nan, False)]
)
def test_float_operands_change_places_if_one_is_no_nan(number: float, merged: bool) -> None:
    outcome = merge(
        "a = Add(x, c) b = Add(c, x) y = Mul(a, b)", held("c", np.float32([number, 1, 2]))
    )
    assert outcome.operators.count("Add") == (1 if merged else 2)
    assert len(outcome.result.declined) == (0 if merged else 1)
    feed = X.copy()
    feed[0, 0] = np.nan
    assert outcome.agrees({"x": feed})


def test_old_one_way_broadcasting_does_not_commute() -> None:
    source = """<ir_version: 3, opset_import: ["" : 6]> g (int32[2,3] x, int32[2,3] z) =>
        (int32[2,3] y) {
        a = Add<broadcast = 1>(x, z) b = Add<broadcast = 1>(z, x) y = Sub(a, b) }"""
    assert not apply(MergeDuplicates(), source).result.modified


NAN1, NAN2 = (
    np.uint32([0x7FC00001, 0]).view(np.float32),
    np.uint32([0x7FC00002, 0]).view(np.float32),
)
LONG = np.arange(1000, dtype=np.float32)
MIDDLE = LONG.copy()
MIDDLE[500] = -1


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), True),
        (NAN1, NAN1.copy(), True),
        (LONG, LONG.copy(), True),
        (np.array([b"a", b"b"], object), np.array([b"a", b"b"], object), True),
        (np.float32([0.0]), np.float32([-0.0]), False),
        (NAN1, NAN2, False),
        (LONG, MIDDLE, False),
        (np.float32([1, 2]), np.float32([[1, 2]]), False),
        (np.float32([0, 0]), np.int32([0, 0]), False),
        (np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32), False),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), False),
    ],
    ids=["same", "nan", "long", "text", "zero", "nans", "middle", "rank", "type", "empty", "texts"],
)  # fmt: skip
def test_initializers_are_compared_to_the_bit(one, other, merged: bool) -> None:
    outcome = merge(
        "a = Shape(c) b = Shape(d) y = Concat<axis = 0>(a, b)",
        held("c", one),
        held("d", other),
        types="",
        out="int64[n] y",
    )
    assert list(outcome.initializers) == (["c"] if merged else ["c", "d"])
    assert outcome.rewrites.get("duplicate-initializer", 0) == merged
    assert outcome.agrees({})


def test_of_three_equal_long_constants_one_is_left() -> None:
    outcome = merge(
        "a = Add(x, c) b = Add(a, d) e = Add(b, f) y = Add(e, m)",
        *(held(name, LONG) for name in "cdf"),
        held("m", MIDDLE),
        types="float[1000] x",
        out="float[1000] y",
    )
    assert list(outcome.initializers) == ["c", "m"]
    assert outcome.agrees({"x": LONG})


def test_defaults_and_outputs_are_no_duplicates() -> None:
    outcome = merge(
        "y = Add(x, c)  z = Add(x, d)",
        *(held(name, np.float32([1, 2, 3])) for name in "cde"),
        types="float[2,3] x, float[3] c",
        out="float[2,3] y, float[2,3] z, float[3] e",
    )
    assert not outcome.result.modified


def test_constant_nodes_and_initializers_are_the_same() -> None:
    outcome = merge(
        "c = Constant<value_floats = [1.0, 2.0, 3.0]>() d = Constant<value = float[3] {1, 2, 3}>()"
        "a = Add(x, c) b = Add(a, d) y = Mul(b, w)",
        held("w", np.float32([1, 2, 3])),
    )
    assert outcome.operators == ["Add", "Add", "Mul"]
    assert outcome.rewrites == {"duplicate-constant": 2}
    assert outcome.agrees({"x": X})


def test_constants_of_ir_version_3() -> None:
    source = """<ir_version: 3, opset_import: ["" : 9]> g (float[3] x) => (float[3] y) {
        c = Constant<value = float[3] {1, 2, 3}>() d = Constant<value = float[3] {1, 2, 3}>()
        a = Add(x, c) y = Mul(a, d) }"""
    outcome = apply(MergeDuplicates(), source)
    assert outcome.operators == ["Constant", "Add", "Mul"]


BRANCHES = """a = Exp(x) n = ReduceSum<keepdims = 0>(x) p = Less(n, zero)
    y = If (p) <then_branch = t () => (float[2,3] u) { %s },
                else_branch = e () => (float[2,3] v) { %s }>"""


def branches(then: str, other: str, **more) -> Outcome:
    return merge(BRANCHES % (then, other), held("zero", np.float32(0)), **more)


def test_a_branch_uses_what_was_computed_before() -> None:
    outcome = branches("b = Exp(x) u = Neg(b)", "c = Exp(x) v = Abs(c)")
    assert outcome.all_operators["Exp"] == 1
    assert outcome.agrees({"x": X})
    assert outcome.agrees({"x": -X - 1})


def test_each_branch_uses_the_constant_outside() -> None:
    """What the first has found out by a closer look is not known in the second."""
    constant = "Constant<value_floats = [1.0, 2.0, 3.0]>()"
    text = f"o = {constant} x1 = Add(x, o) " + BRANCHES.replace("Exp(x)", "Exp(x1)")
    inner = (f"b = {constant} u = Mul(a, b)", f"c = {constant} v = Div(a, c)")
    outcome = merge(text % inner, held("zero", np.float32(0)))
    assert outcome.all_operators["Constant"] == 1
    assert outcome.agrees({"x": X})


def test_branches_share_nothing_and_hand_nothing_out() -> None:
    outcome = merge(
        "n = ReduceSum<keepdims = 0>(x) p = Less(n, zero)"
        "z = If (p) <then_branch = t () => (float[2,3] u) { b = Exp(x) u = Neg(b) },"
        "else_branch = e () => (float[2,3] v) { c = Exp(x) v = Abs(c) }> d = Exp(x) y = Add(z, d)",
        held("zero", np.float32(0)),
    )
    assert not outcome.result.modified


def test_the_output_of_a_branch_is_made_in_it() -> None:
    assert not branches("u = Exp(x)", "v = Neg(x)").result.modified


def test_a_name_that_means_something_else_inside_is_not_used_there() -> None:
    """The branch has a value of its own called `a`."""

    def edit(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if n.op_type == "If"]
        graph = node.attribute[0].g
        graph.node[0].output[0] = graph.node[2].input[0] = "a"

    source = f"{HEADER} g (float[2,3] x) => (float[2,3] y) {{ %s }}" % (
        BRANCHES % ("q = Neg(x) b = Exp(x) u = Add(q, b)", "v = Abs(x)")
    )
    model = onnx.parser.parse_model(source)
    held("zero", np.float32(0))(model)
    edit(model)
    loaded = ir.from_proto(model)
    result = MergeDuplicates().run(loaded, PassContext())
    assert not result.modified


def test_equal_ifs_are_merged_and_unequal_are_not() -> None:
    body = """n = ReduceSum<keepdims = 0>(x) p = Less(n, zero)
        a = If (p) <then_branch = t () => (float[2,3] u) { k = Constant<value_float = 2.0>()
            u = Mul(x, k) }, else_branch = e () => (float[2,3] v) { v = Abs(x) }>
        b = If (p) <then_branch = t () => (float[2,3] q) { k2 = Constant<value_float = %s>()
            q = %s }, else_branch = e () => (float[2,3] r) { r = Abs(x) }>
        y = Add(a, b)"""
    edit = held("zero", np.float32(0))
    equal = merge(body % ("2.0", "Mul(x, k2)"), edit)
    assert equal.all_operators["If"] == 1
    assert equal.agrees({"x": X})
    assert equal.agrees({"x": X - 3})
    for constant, product in (("3.0", "Mul(x, k2)"), ("2.0", "Mul(k2, k2)")):
        body_ = body % (constant, product)
        assert merge(body_, edit, out="float[n,m] y").all_operators["If"] == 2
    drawn = body.replace("Abs(x)", "RandomNormalLike(x)") % ("2.0", "Mul(x, k2)")
    assert merge(drawn, edit).all_operators["If"] == 2


FUNCTION = """
<domain: "local", opset_import: ["" : 17]> %s (t) => (s) { %s }"""


def call(body: str, function: str) -> Outcome:
    source = f"{HEADER} g (float[2,3] x) => (float[2,3] y) {{ {body} }} {function}"
    return apply(MergeDuplicates(), source)


def test_functions_each_for_themselves() -> None:
    inside = "a = Exp(t) b = Exp(t) s = Add(a, b)"
    outcome = call("a = Exp(x) b = local.F(x) y = Add(a, b)", FUNCTION % ("F", inside))
    assert [n.op_type for n in outcome.after.functions[0].node] == ["Exp", "Add"]
    assert outcome.operators == ["Exp", "F", "Add"]
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize(
    ("inside", "merged"),
    [("s = Exp(t)", True), ("s = RandomNormalLike(t)", False), ("s = other.G(t)", False)],
)
def test_calls_are_merged_if_the_function_is_pure(inside: str, merged: bool) -> None:
    function = FUNCTION % ("F", inside)
    function = function.replace('["" : 17]', '["" : 17, "other" : 1]')
    outcome = call("a = local.F(x) b = local.F(x) y = Add(a, b)", function)
    assert outcome.operators.count("F") == (1 if merged else 2)


def test_parameters_of_functions_are_equal_to_themselves() -> None:
    function = """<domain: "local", opset_import: ["" : 17]> F <p, q> (t) => (s) {
        a = LeakyRelu<alpha: float = @p>(t) b = LeakyRelu<alpha: float = @p>(t)
        c = LeakyRelu<alpha: float = @q>(t) d = Add(a, b) s = Add(d, c) }"""
    outcome = call("y = local.F<p = 0.5, q = 0.5>(x)", function)
    kept = [n.op_type for n in outcome.after.functions[0].node]
    assert kept == ["LeakyRelu", "LeakyRelu", "Add", "Add"]
    assert outcome.agrees({"x": X})


def test_external_weights_are_read_only_if_another_looks_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "alone": rng.normal(size=(40, 30)),
        "one": rng.normal(size=(30, 30)),
        "two": rng.normal(size=(30, 30)),
    }
    source = f"""{HEADER} g (float[2,40] x) => (float[2,30] y) {{
        a = MatMul(x, alone) b = MatMul(a, one) c = MatMul(b, two) y = MatMul(c, copy) }}"""
    proto = onnx.parser.parse_model(source)
    for name, array in (*arrays.items(), ("copy", arrays["two"])):
        held(name, array.astype(np.float32))(proto)
    save(load(proto), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    assert MergeDuplicates().run(model, PassContext()).rewrites == {"duplicate-initializer": 1}
    kept = model.graph.initializers
    assert list(kept) == ["alone", "one", "two"]
    tensor = kept["alone"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None
    content = serialized(model)
    assert not MergeDuplicates().run(model, PassContext()).modified
    assert serialized(model) == content
