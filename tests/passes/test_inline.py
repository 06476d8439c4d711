"""inline: functions and branches whose course is constant."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rewriting import Outcome, apply, both, held, run

from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.pipeline.base import PassContext, PassResult
from graphopt_passes.inline import Inline

HEADER = '<ir_version: 10, opset_import: ["" : 17, "other" : 1, "local" : 1]>'
X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def inline(body: str, functions: str = "", *edits, types="float[2,3] x", out="float[2,3] y"):
    source = f"{HEADER} g ({types}) => ({out}) {{ {body} }} {functions}"
    return apply(Inline(), source, both(*edits))


def function(head: str, body: str, opsets: str = '"" : 17') -> str:
    return f'<domain: "local", opset_import: [{opsets}, "local" : 1]> {head} {{ {body} }}\n'


def values(outcome: Outcome) -> list[str]:
    return [name for node in outcome.after.graph.node for name in node.output]


def test_a_call_becomes_the_body() -> None:
    body = "a = local.F(x) b = Neg(a) [second] y = local.F(b)"
    outcome = inline(body, function("F (t) => (s)", "[n] e = Exp(t) s = Add(e, t)"))
    assert outcome.operators == ["Exp", "Add", "Neg", "Exp", "Add"]
    assert values(outcome) == ["F/e", "a", "b", "second/e", "y"]
    assert [n.name for n in outcome.after.graph.node] == ["F/n", "", "", "second/n", ""]
    assert len(outcome.after.functions) == 1
    assert outcome.agrees({"x": X})


def test_functions_in_functions_and_in_branches() -> None:
    functions = function("F (t) => (s)", "e = local.G(t) s = local.G(e)") + function(
        "G (t) => (s)", "e = Exp(t) s = Neg(e)"
    )
    body = """n = ReduceSum<keepdims = 0>(x) z = Sub(n, n) p = Less(n, z)
        y = If (p) <then_branch = t () => (float[2,3] u) { u = local.F(x) },
                    else_branch = e () => (float[2,3] v) { v = local.G(x) }>"""
    outcome = inline(body, functions)
    assert outcome.all_operators["F"] == 0
    assert outcome.after.functions == ir.to_proto(ir.from_proto(outcome.before)).functions
    branch = outcome.after.graph.node[3].attribute[0].g
    assert [n.op_type for n in branch.node] == ["Exp", "Neg", "Exp", "Neg"]
    assert outcome.agrees({"x": X + 9})
    assert outcome.agrees({"x": X - 9})


@pytest.mark.parametrize(
    ("attributes", "expected"), [("alpha = 0.5", 0.5), ("alpha = -0.0", -0.0), ("", 0.25)]
)
def test_parameters_and_their_defaults(attributes: str, expected: float) -> None:
    head = "F <alpha: float = 0.25> (t) => (s)"
    call = f"local.F<{attributes}>(x)" if attributes else "local.F(x)"
    outcome = inline(f"y = {call}", function(head, "s = LeakyRelu<alpha: float = @alpha>(t)"))
    (node,) = outcome.after.graph.node
    assert np.float32(node.attribute[0].f).tobytes() == np.float32(expected).tobytes()
    assert outcome.agrees({"x": X})


def test_a_parameter_not_given_leaves_the_operator_its_default() -> None:
    head = "F <alpha> (t) => (s)"
    outcome = inline("y = local.F(x)", function(head, "s = LeakyRelu<alpha: float = @alpha>(t)"))
    assert not outcome.after.graph.node[0].attribute
    kept = inline(
        "y = local.F(x)",
        function(head, "c = Constant<value_float: float = @alpha>() s = Mul(t, c)"),
    )
    assert kept.declined == ["attribute 'alpha' is not given"]


def test_parameters_inside_of_subgraphs() -> None:
    body = """n = ReduceSum<keepdims = 0>(t) z = Sub(n, n) p = Less(n, z)
        s = If (p) <then_branch = a () => (float[2,3] u) { u = Selu<alpha: float = @alpha>(t) },
                    else_branch = b () => (float[2,3] v) { v = Elu<alpha: float = @alpha>(t) }>"""
    call = "a = local.F<alpha = 0.5>(x) y = local.F<alpha = 0.25>(a)"
    outcome = inline(call, function("F <alpha> (t) => (s)", body))
    assert outcome.all_operators["If"] == 3  # and that of the function
    assert outcome.agrees({"x": X - 1})
    assert outcome.agrees({"x": X + 1})


def test_inputs_and_outputs_left_out() -> None:
    head, body = "F (t, low, high) => (s, r)", "s = Clip(t, low, high) r = Neg(s)"
    call = "y, r = local.F(x, , c)"
    outcome = inline(call, function(head, body), held("c", np.float32(0.5)))
    assert outcome.operators == ["Clip", "Neg"]
    assert list(outcome.after.graph.node[0].input) == ["x", "", "c"]
    assert outcome.agrees({"x": X})


def test_a_function_that_hands_its_input_on() -> None:
    handed = function("F (t) => (t, w)", "w = Exp(t)")
    outcome = inline(
        "y, a = local.F(x) b = Neg(x) z, c = local.F(b)",
        handed,
        out="float[2,3] y, float[2,3] z",
    )
    assert outcome.operators == ["Exp", "Identity", "Neg", "Exp", "Identity"]
    del outcome.after.functions[:]  # with which ONNX Runtime does not load it
    y, z = run(outcome.after, {"x": X})
    np.testing.assert_array_equal(y, X)
    np.testing.assert_array_equal(z, -X)


def unchecked(source: str, *, checked: bool = False) -> tuple[ir.Model, PassResult]:
    """For what onnx's checker refuses, but other tools write."""
    proto = onnx.parser.parse_model(source)
    model = load(proto) if checked else ir.from_proto(proto)
    return model, Inline().run(model, PassContext())


def test_functions_in_place_of_operators_of_onnx() -> None:
    functions = '<domain: "ai.onnx", opset_import: ["" : 17]> Exp (t) => (s) { s = Neg(t) }'
    outcome = inline("y = Exp(x)", functions)
    assert outcome.operators == ["Neg"]
    assert [f.name for f in outcome.after.functions] == ["Exp"]


def test_unknown_operators_inside_come_along_with_their_opset() -> None:
    functions = function("F (t) => (s)", "s = third.Thing(t)", '"" : 17, "third" : 4')
    outcome = inline("y = local.F(x)", functions)
    assert outcome.operators == ["Thing"]
    assert {o.domain: o.version for o in outcome.after.opset_import}["third"] == 4


@pytest.mark.parametrize(
    ("opsets", "body", "inlined"),
    [
        ('"" : 14', "s = Exp(t)", True),
        ('"" : 12', "s = Exp(t)", False),
        ('"" : 17, "other" : 2', "s = other.Thing(t)", False),
        ('"" : 17, "other" : 1', "s = other.Thing(t)", True),
    ],
)
def test_opsets_must_agree_on_each_operator(opsets: str, body: str, inlined: bool) -> None:
    source = f"{HEADER} g (float[2,3] x) => (float[2,3] y) {{ y = local.F(x) }}"
    source += function("F (t) => (s)", body, opsets)
    _, result = unchecked(source, checked=inlined)
    assert result.modified == inlined
    for declined in result.declined:
        operator = body[4 : body.index("(")].split(".")[-1]
        assert declined.reason.startswith(f"{operator} of opset {opsets[-2:].strip()}, which ")


def test_recursion_is_an_error() -> None:
    functions = function("F (t) => (s)", "s = local.G(t)") + function(
        "G (t) => (s)", "s = local.F(t)"
    )
    source = f"{HEADER} g (float[2,3] x) => (float[2,3] y) {{ y = local.F(x) }} {functions}"
    with pytest.raises(GraphoptError, match=r"local\.F -> local\.G -> local\.F"):
        unchecked(source)


def test_functions_that_grow_beyond_bounds_stay() -> None:
    functions = "".join(
        function(f"F{i} (t) => (s)", f"a = local.F{i + 1}(t) s = local.F{i + 1}(a)")
        for i in range(20)
    )
    outcome = inline("y = local.F0(x)", functions + function("F20 (t) => (s)", "s = Exp(t)"))
    assert outcome.declined == ["inlined it would be more than 100,000 nodes"]


def test_a_graph_passed_as_an_attribute_stays() -> None:
    source = f"""{HEADER} g (float[2,3] x, bool c) => (float[2,3] y) {{
        y = local.F<body = b () => (float[2,3] u) {{ u = Exp(x) }}>(c) }}"""
    _, result = unchecked(source + function("F <body> (c) => (s)", "s = Identity(c)"))
    assert [d.reason for d in result.declined] == [
        "a graph is passed to the function as an attribute"
    ]


def test_metadata_of_call_and_body_are_both_kept() -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.node[0].metadata_props.add(key="layer", value="1")
        model.functions[0].node[0].metadata_props.add(key="origin", value="exp")
        model.functions[0].node[0].doc_string = "why"

    outcome = inline("y = local.F(x)", function("F (t) => (s)", "s = Exp(t)"), edit)
    (node,) = outcome.after.graph.node
    assert {p.key: p.value for p in node.metadata_props} == {"layer": "1", "origin": "exp"}
    assert node.doc_string == "why"


def test_names_that_are_taken() -> None:
    body = "F_a = Neg(x) y = local.F(F_a) "
    outcome = inline(body, function("F (t) => (s)", "e = Exp(t) s = Neg(e)"))
    taken = inline(
        "z = local.F(x) y = Add(z, w)",
        function("F (t) => (s)", "e = Exp(t) s = Neg(e)"),
        held("w", np.float32(1)),
        lambda model: _rename(model, "w", "F/e"),
    )
    assert values(outcome) == ["F_a", "F/e", "y"]
    assert values(taken) == ["F/e_1", "z", "y"]
    assert taken.agrees({"x": X})


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    model.graph.initializer[0].name = new
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


# If

IF = """y = If (c) <then_branch = t () => (float[2,3] u) { %s },
                    else_branch = e () => (float[2,3] v) { %s }>"""


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_constant_condition_takes_its_branch(taken: bool, shape: tuple[int, ...]) -> None:
    branches = IF % ("a = Exp(x) u = Neg(a)", "a = Sin(x) v = Neg(a)")
    outcome = inline(branches, "", held("c", np.full(shape, taken)))
    assert outcome.operators == ["Exp" if taken else "Sin", "Neg"]
    assert values(outcome) == ["a", "y"]
    assert outcome.agrees({"x": X})


def test_a_condition_that_may_be_overridden_is_not_constant() -> None:
    branches = IF % ("u = Exp(x)", "v = Neg(x)")
    outcome = inline(branches, "", held("c", np.array(True)), types="float[2,3] x, bool c")
    assert not outcome.result.modified


def test_constants_of_a_branch_come_along() -> None:
    branches = IF % ("u = Mul(x, w)", "v = Neg(x)") + " z = Add(x, x)"

    def edit(model: onnx.ModelProto) -> None:
        branch = model.graph.node[0].attribute[0].g
        branch.initializer.append(onnx.numpy_helper.from_array(np.float32([1, 2, 3]), "w"))

    outcome = inline(
        branches, "", held("c", np.array(True)), edit, out="float[2,3] y, float[2,3] z"
    )
    assert outcome.operators == ["Mul", "Add"]
    assert list(outcome.initializers) == ["c", "w"]
    assert outcome.agrees({"x": X})


def test_branches_that_give_constants() -> None:
    source = f"""{HEADER} g (float[2,3] x) => (float[3] y, float[2,3] z) {{
        y, z = If (c) <then_branch = t () => (float[3] w, float[2,3] a) {{ a = Exp(x) }},
          else_branch = e () => (float[3] q, float[2,3] v) {{ q = Abs(k) v = Neg(x) }}> }}"""

    def edit(model: onnx.ModelProto) -> None:
        branch = model.graph.node[0].attribute[0].g
        branch.initializer.append(onnx.numpy_helper.from_array(np.float32([1, 2, 3]), "w"))

    edits = both(held("c", np.array(True)), held("k", np.float32([1, 2, 3])), edit)
    outcome = apply(Inline(), source, edits)
    assert sorted(outcome.operators) == ["Exp", "Identity"]
    assert outcome.agrees({"x": X})


def test_ir_version_3_gets_no_new_initializers() -> None:
    source = """<ir_version: 3, opset_import: ["" : 9]> g (float[3] x) => (float[3] y) {
        c = Constant<value = bool {1}>()
        y = If (c) <then_branch = t () => (float[3] u) {
            k = Constant<value = float[3] {1, 2, 3}>() u = Mul(x, k) },
          else_branch = e () => (float[3] v) { v = Neg(x) }> }"""
    outcome = apply(Inline(), source)
    assert outcome.operators == ["Constant", "Constant", "Mul"]
    assert not outcome.initializers
    assert outcome.agrees({"x": X[0]})


def test_nested_branches_and_clashing_names() -> None:
    body = """c = Constant<value = bool {1}>()
        p = If (c) <then_branch = t () => (float[2,3] u) {
            d = Constant<value = bool {0}>()
            u = If (d) <then_branch = t2 () => (float[2,3] m) { m = Exp(x) },
                        else_branch = e2 () => (float[2,3] n) { i = Abs(x) n = Neg(i) }> },
          else_branch = e () => (float[2,3] v) { i = Sin(x) v = Neg(i) }>
        q = If (c) <then_branch = t3 () => (float[2,3] u) { i = Cos(x) u = Neg(i) },
                    else_branch = e3 () => (float[2,3] v) { v = Neg(x) }>
        y = Add(p, q)"""
    outcome = inline(body)
    assert [op for op in outcome.operators if op != "Constant"] == [
        "Abs", "Neg", "Cos", "Neg", "Add",
    ]  # fmt: skip
    assert len(set(values(outcome))) == len(values(outcome))
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize(
    ("then", "other", "same"),
    [
        ("a = Exp(x) u = Neg(a)", "b = Exp(x) v = Neg(b)", True),
        ("u = RandomNormalLike(x)", "v = RandomNormalLike(x)", True),
        ("a = Exp(x) u = Neg(a)", "b = Exp(x) v = Abs(b)", False),
        ("u = LeakyRelu<alpha = 0.5>(x)", "v = LeakyRelu<alpha = 0.25>(x)", False),
        ("u = Sub(x, k)", "v = Sub(k, x)", False),
    ],
)
def test_branches_that_are_the_same(then: str, other: str, same: bool) -> None:
    edit = held("k", np.float32(1))
    outcome = inline(IF % (then, other), "", edit, types="float[2,3] x, bool c")
    assert (outcome.all_operators["If"] == 0) == same
    if "Random" not in then:
        assert outcome.agrees({"x": X, "c": np.array(True)})
        assert outcome.agrees({"x": X, "c": np.array(False)})


def test_a_range_over_what_is_no_scalar_stays_valid() -> None:
    """ONNX Runtime takes it; onnx's checker does not, once it sees the shape."""
    body = """n = Shape(x)
        r = If (c) <then_branch = t () => (int64[1] u) { u = Slice(n, zero, one) },
        else_branch = e () => (int64[k] v) { v = Identity(n) }> y = Range(first, r, step)"""
    edits = [held(n, np.array([v], np.int64)) for n, v in (("zero", 0), ("one", 1))]
    edits += [held(n, np.array(v, np.int64)) for n, v in (("first", 0), ("step", 1))]
    outcome = inline(body, "", *edits, held("c", np.array(True)), out="int64[m] y")
    onnx.checker.check_model(outcome.after, full_check=True)
    assert outcome.operators == ["Shape", "Slice", "Squeeze", "Range"]
    assert outcome.agrees({"x": X})
