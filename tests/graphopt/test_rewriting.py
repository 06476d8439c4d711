"""The engine: rules until none fits, what it counts, what it says, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import model

from graphopt.errors import GraphoptError
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.rewriting import DeclinedError, Rewriter, Rule, rewrite

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'


def apply(text: str, *rules: Rule) -> PassResult:
    result = rewrite(model(text), PassContext(), rules)
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    return result


def rule(
    operator: str, name: str = "test"
) -> Callable[[Callable[[ir.Node, Rewriter], bool]], Rule]:
    return lambda function: Rule(name, (operator,), function)


def operators(result: PassResult) -> list[str]:
    return [node.op_type for node in result.model.graph]


@rule("Neg", "double-neg")
def double_neg(node: ir.Node, at: Rewriter) -> bool:
    inner = at.before(node, 0, "Neg")
    if inner is None:
        return False
    source = inner.inputs[0]
    return source is not None and at.replace(node.outputs[0], source)


@pytest.mark.parametrize(("needs", "left"), [(("Exp", "Relu"), 0), (("Exp",), 2), ((), 0)])
def test_a_model_without_what_a_rule_needs_is_not_searched(
    needs: tuple[str, ...], left: int
) -> None:
    wanting = Rule(double_neg.name, double_neg.operators, double_neg.apply, needs)
    assert operators(apply(chain(3), wanting)) == ["Neg"] * left + ["Relu"]


def test_a_rule_is_searched_for_once_another_has_made_what_it_needs() -> None:
    @rule("Relu")
    def to_exp(node: ir.Node, at: Rewriter) -> bool:
        at.become(node, "Exp", node.inputs)
        return True

    wanting = Rule(double_neg.name, double_neg.operators, double_neg.apply, ("Exp",))
    assert operators(apply(chain(3), wanting, to_exp)) == ["Exp"]


def chain(length: int) -> str:
    nodes = [f"v{i} = Neg (v{i - 1})" for i in range(1, length)]
    return (
        f"{HEAD} g (float[2] v0) => (float[2] y) {{ {' '.join(nodes)} y = Relu (v{length - 1}) }}"
    )


@pytest.mark.parametrize(("length", "left"), [(1, 0), (2, 1), (3, 0), (8, 1), (9, 0), (2001, 0)])
def test_rules_are_applied_until_none_fits(length: int, left: int) -> None:
    result = apply(chain(length), double_neg)
    assert operators(result) == ["Neg"] * left + ["Relu"]
    assert result.modified == (length > 2)
    assert dict(result.rewrites) == ({"double-neg": (length - 1) // 2} if length > 2 else {})


def test_a_value_that_is_used_twice_or_is_an_output_is_not_before_its_user() -> None:
    body = "{ a = Neg (x) y = Neg (a) z = Abs (a) }"
    result = apply(f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {body}", double_neg)
    assert not result.modified
    result = apply(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] a) {{ a = Neg (x) y = Neg (a) }}",
        double_neg,
    )
    assert not result.modified


def test_a_value_that_a_subgraph_uses_is_not_before_its_user() -> None:
    result = apply(
        f"{HEAD} g (float[2] x, bool c) => (float[2] y, float[2] z) {{ a = Neg (x) y = Neg (a) "
        "z = If (c) <then_branch = t () => (float[2] p) { p = Abs (a) }, "
        "else_branch = e () => (float[2] q) { q = Exp (a) }> }",
        double_neg,
    )
    assert not result.modified


def test_rules_reach_subgraphs_and_functions() -> None:
    result = apply(
        '<ir_version: 9, opset_import: ["" : 17, "local" : 1]> '
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { z = local.f (x) "
        "y = If (c) <then_branch = t () => (float[2] p) { b = Neg (x) d = Neg (b) p = Abs (d) }, "
        "else_branch = e () => (float[2] q) { q = Exp (x) }> } "
        '<domain: "local", opset_import: ["" : 17]> '
        "f (x) => (y) { a = Neg (x) b = Neg (a) y = Abs (b) }",
        double_neg,
    )
    assert result.rewrites == {"double-neg": 2}


def test_become_keeps_the_name_and_the_output_and_removes_what_is_left_over() -> None:
    @rule("Mul")
    def to_sigmoid(node: ir.Node, at: Rewriter) -> bool:
        exp = at.before(node, 1, "Exp")
        if exp is None or not at.is_number(node.inputs[0], 2.0):
            return False
        at.become(node, "HardSigmoid", [exp.inputs[0]], {"alpha": 0.25})
        return True

    result = apply(
        f"{HEAD} g (float[2] x) => (float[2] y) <float two = {{2}}> "
        "{ [a] e = Exp (x) [b] y = Mul (two, e) }",
        to_sigmoid,
    )
    (node,) = result.model.graph
    assert (node.op_type, node.name, node.outputs[0].name) == ("HardSigmoid", "b", "y")
    assert node.attributes.get_float("alpha") == 0.25
    assert not result.model.graph.initializers


def test_a_near_miss_is_told_once_and_forgotten_when_it_is_rewritten_after_all() -> None:
    @rule("Abs", "no-abs")
    def no_abs(node: ir.Node, at: Rewriter) -> bool:
        if at.before(node, 0, "Neg") is not None:
            raise DeclinedError("it follows a Neg")
        return at.before(node, 0, "Relu") is not None and at.replace(
            node.outputs[0], node.inputs[0]
        )  # type: ignore[arg-type]

    result = apply(
        f"{HEAD} g (float[2] x) => (float[2] y) {{ n = Neg (x) [it] y = Abs (n) }}", no_abs
    )
    (miss,) = result.declined
    assert (miss.rewrite, miss.node, miss.op_type, miss.reason) == (
        "no-abs",
        "it",
        "Abs",
        "it follows a Neg",
    )
    assert not result.modified
    result = apply(
        f"{HEAD} g (float[2] x) => (float[2] y) "
        "{ r = Relu (x) a = Neg (r) b = Neg (a) c = Abs (b) y = Exp (c) }",
        no_abs,
        double_neg,
    )
    assert operators(result) == ["Relu", "Exp"]
    assert not result.declined


def test_rules_that_undo_each_other_are_an_error_that_names_one() -> None:
    @rule("Abs", "to-exp")
    def to_exp(node: ir.Node, at: Rewriter) -> bool:
        at.become(node, "Exp", node.inputs)
        return True

    @rule("Exp", "to-abs")
    def to_abs(node: ir.Node, at: Rewriter) -> bool:
        at.become(node, "Abs", node.inputs)
        return True

    with pytest.raises(GraphoptError, match=r"rewrite 'to-.*' does not come to rest, last at node"):
        apply(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Abs (x) }}", to_exp, to_abs)


def test_operators_that_a_function_replaces_or_of_other_domains_are_not_visited() -> None:
    @rule("Neg")
    def fail(node: ir.Node, at: Rewriter) -> bool:
        raise AssertionError("visited")

    apply(
        '<ir_version: 9, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) '
        '{ y = local.Neg (x) } <domain: "local", opset_import: ["" : 17]> '
        "Neg (x) => (y) { y = Abs (x) }",
        fail,
    )


def test_shared_constants_are_copied_before_they_are_changed() -> None:
    @rule("Mul")
    def double(node: ir.Node, at: Rewriter) -> bool:
        weight = at.array(node.inputs[1])
        if weight is None or weight[0] != 1:
            return False
        at.replace_constant(node, 1, weight * 2, "doubled")
        return True

    result = apply(
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {{1, 2}}, "
        "float[2] v = {1, 3}> { y = Mul (x, w) a = Add (x, w) z = Mul (a, v) }",
        double,
    )
    held = {k: v.const_value.numpy().tolist() for k, v in result.model.graph.initializers.items()}  # type: ignore[union-attr]
    assert held == {"w": [1, 2], "doubled": [2, 4], "v": [2, 6]}


def test_a_constant_without_dimensions_may_be_what_numpy_makes_of_it() -> None:
    @rule("Neg")
    def minus(node: ir.Node, at: Rewriter) -> bool:
        number = at.constant(-np.array(1.0, np.float32), "minus_one", node)
        at.become(node, "Mul", [*node.inputs, number])
        return True

    result = apply(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Neg (x) }}", minus)
    (held,) = result.model.graph.initializers.values()
    assert held.const_value is not None
    assert held.const_value.numpy().shape == ()
    assert held.const_value.numpy() == -1


@pytest.mark.parametrize(
    ("small", "large", "keeps"),
    [
        ("float[3]", "float[2, 3]", True),
        ("float[1, 1]", "float[3]", False),
        ("float[2, 1]", "float[2, 3]", True),
        ("float[N]", "float[2, N]", True),
        ("float[N]", "float[2, M]", False),
        ("float[3]", "float[2, N]", False),
        ("float[1]", "float[N]", True),
        ("float", "float[N]", True),
        ("float", "float[]", True),
        ("float[1]", "float[]", False),
    ],
)
def test_what_broadcasts_without_changing_the_shape(small: str, large: str, keeps: bool) -> None:
    text = f"{HEAD} g ({small} a, {large} b) => (float[] y) {{ y = Add (a, b) }}"
    text = text.replace("float[] y", "float y") if "float[]" not in large else text
    m = ir.from_proto(onnx.parser.parse_model(text.replace("=> (float y)", "=> (float[K] y)")))
    if "float[]" in large:
        m.graph.inputs[1].shape = None
    at = Rewriter(m, PassContext(), lambda _: None)
    assert at.keeps_shape(m.graph.inputs[0], m.graph.inputs[1]) == keeps


def test_numbers_are_compared_whatever_the_rank_and_type() -> None:
    m = model(f"{HEAD} g (float[1] x) => (float[1] y) <float[1] c = {{0.5}}> {{ y = Mul (x, c) }}")
    at = Rewriter(m, PassContext(), lambda _: None)
    value = m.graph.initializers["c"]
    assert at.is_number(value, 0.5)
    assert not at.is_number(value, 0.50001)
    value.const_value = ir.tensor(np.array([[np.nan]], np.float32))
    assert not at.is_number(value, float("nan"))
    value.const_value = ir.tensor(np.array([1, 2], np.float32))
    assert at.scalar(value) is None
