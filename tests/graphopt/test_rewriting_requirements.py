"""What a rewrite may make (opset, target, types, functions), and what it may take in."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir
import pytest

from graphopt.ir import load
from graphopt.pipeline.base import PassContext
from graphopt.rewriting import DeclinedError, Rewriter, require_private
from graphopt.targets import get_target

FUNCTION = """<domain: "own", opset_import: ["" : 18]> F (a) => (b) { b = Neg (a) }"""
GELU = """<domain: "", opset_import: ["" : 20]> Gelu (a) => (b) { b = Neg (a) }"""


def rewriter(opset: int = 20, more: str = "", unwanted: frozenset[str] = frozenset()) -> Rewriter:
    domain = ', "own" : 1' if "own" in more else ""
    text = f'<ir_version: 9, opset_import: ["" : {opset}{domain}]>'
    graph = "g (float[2] x) => (float[2] y) { y = Neg (x) }"
    model = load(onnx.parser.parse_model(f"{text} {graph} {more}").SerializeToString())
    target = replace(get_target("generic"), unwanted_operators=unwanted)
    return Rewriter(model, PassContext(target=target), lambda node: None)


def test_an_operator_that_may_be_used() -> None:
    at = rewriter()
    assert at.has_operator("Gelu", 20)
    at.require_operator("Gelu", 20, ir.DataType.FLOAT)


@pytest.mark.parametrize(
    ("at", "dtype", "reason"),
    [
        (rewriter(17), ir.DataType.FLOAT, "needs opset 20 (the model has 17): run set-opset{ver"),
        (rewriter(20, FUNCTION), ir.DataType.FLOAT, "needs opset 20 (the model has 18)"),
        (rewriter(20, GELU), ir.DataType.FLOAT, "the model has a function of its own"),
        (rewriter(20, "", frozenset({"Gelu"})), ir.DataType.FLOAT, "does not want Gelu"),
        (rewriter(), ir.DataType.INT64, "Gelu of opset 20 does not take int64"),
        (rewriter(), None, "Gelu of opset 20 does not take unknown types"),
    ],
)
def test_an_operator_that_may_not(at: Rewriter, dtype: ir.DataType | None, reason: str) -> None:
    with pytest.raises(DeclinedError) as error:
        at.require_operator("Gelu", 20, dtype)
    assert reason in str(error.value)
    assert at.has_operator("Gelu", 20) == (" take " in reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Neg (x) b = Abs (a) y = Add (a, b)", None),
        ("a = Neg (x) b = Abs (a) c = Add (a, b) d = Exp (b) y = Mul (c, d)", None),
        ("a = Neg (x) z = Abs (a) y = Add (a, z)", "'z' in the midst of it is an output"),
        ("a = Neg (x) y = Abs (a) z = Exp (a)", "'a' in the midst of it is used elsewhere too"),
    ],
)
def test_private_regions(body: str, reason: str | None) -> None:
    outputs = "float[2] y, float[2] z" if "z =" in body else "float[2] y"
    text = f'<ir_version: 9, opset_import: ["" : 20]> g (float[2] x) => ({outputs}) {{ {body} }}'
    model = load(onnx.parser.parse_model(text).SerializeToString())
    root = model.graph.outputs[0].producer()
    assert root is not None
    if reason is None:
        require_private(root, [model.graph.inputs[0]])
        return
    with pytest.raises(DeclinedError) as error:
        require_private(root, [model.graph.inputs[0]])
    assert reason in str(error.value)
