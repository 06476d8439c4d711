"""set-opset: up and down, nothing else touched, and a clear word where it cannot be done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import serialized
from rewriting import Outcome, apply, both, held

from graphopt.errors import GraphoptError
from graphopt.ir import load, save
from graphopt.pipeline.base import PassContext
from graphopt.pipeline.text import parse
from graphopt_passes.set_opset import SetOpset

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)


def convert(
    old: int,
    new: int,
    body: str,
    *edits,
    types="float[2,3,4] x",
    out="float[n,m,k] y",
    ir_version=8,
) -> Outcome:
    head = f'<ir_version: {ir_version}, opset_import: ["" : {old}]>'
    source = f"{head} g ({types}) => ({out}) {{ {body} }}"
    return apply(SetOpset(new), source, both(*edits))


def refused(old: int, new: int, body: str, **more) -> str:
    with pytest.raises(GraphoptError) as caught:
        convert(old, new, body, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "body"),
    [
        (11, 13, "y = Unsqueeze<axes = [1]>(x)"),
        (11, 21, "y = ReduceMean<axes = [1]>(x)"),
        (12, 13, "y = Softmax(x)"),
        (12, 21, "y = LogSoftmax<axis = 2>(x)"),
        (10, 21, "y = Clip<min = -1.0, max = 1.0>(x)"),
        (9, 21, "y = Slice<axes = [1], starts = [0], ends = [2]>(x)"),
        (10, 18, "y = Pad<pads = [0, 0, 1, 0, 0, 1], value = 2.0>(x)"),
        (17, 18, "a, b = Split<axis = 2>(x) y = Add(a, b)"),
        (9, 13, "y = Dropout<ratio = 0.4>(x)"),
        (9, 17, "y, m = Dropout(x)"),
        (17, 26, "y = Relu(x)"),
        (19, 13, "s = Shape(x) y = Reshape<allowzero = 0>(x, s)"),
        (19, 7, "a = Mul(x, x) y = Add(a, x)"),
        (13, 12, "y = Softmax<axis = 2>(x)"),
    ],
)
def test_the_result_is_the_same(old: int, new: int, body: str) -> None:
    outcome = convert(old, new, body)
    assert outcome.after.opset_import[0].version == new
    assert outcome.rewrites["opset"] == 1
    assert outcome.agrees({"x": X})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("old", [7, 9, 10])
@pytest.mark.parametrize("scale", [2.0, 1.7])
def test_old_images_keep_their_corners(mode: str, old: int, scale: float) -> None:
    """onnx's own converter leaves out how pixels were related before opset 11."""
    scales = [1.0, 1.0, scale, 2.0]
    attributes = f'mode = "{mode}"' + (f", scales = {scales}" if old == 7 else "")
    operator = "Resize" if old == 10 else "Upsample"
    body = f"y = {operator}<{attributes}>(x{'' if old == 7 else ', s'})"
    edits = [] if old == 7 else [held("s", np.float32(scales))]
    image = np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 1, 4, 6)
    outcome = convert(old, 21, body, *edits, types="float[1,1,4,6] x", out="float[1,1,a,b] y")
    assert outcome.operators == ["Resize"]
    assert outcome.agrees({"x": image}, rtol=1e-6, atol=1e-6)


def test_the_same_opset_is_no_change() -> None:
    assert not convert(17, 17, "y = Relu(x)").result.modified


def test_names_metadata_and_untouched_nodes_stay() -> None:
    def edit(model: onnx.ModelProto) -> None:
        node = model.graph.node[0]
        node.name, node.doc_string = "reduce", "why"
        node.metadata_props.add(key="layer", value="1")
        model.graph.node[1].name = "act"
        model.metadata_props.add(key="author", value="me")

    outcome = convert(11, 18, "a = ReduceMean<axes = [1]>(x) y = Exp(a)", edit)
    first, second = outcome.after.graph.node
    assert (first.name, first.doc_string, list(first.input)) == (
        "reduce",
        "why",
        ["x", "reduce/axes"],
    )
    assert first.metadata_props[0].value == "1"
    assert (second.name, list(second.output)) == ("act", ["y"])
    assert outcome.after.metadata_props[0].value == "me"


def test_subgraphs_are_converted_too() -> None:
    body = """y = If (c) <then_branch = t () => (float[2,3,4] u) { u = Softmax(x) },
                        else_branch = e () => (float[2,1,4] v) { v = ReduceMax<axes = [1]>(x) }>"""
    outcome = convert(12, 21, body, types="float[2,3,4] x, bool c")
    for condition in (True, False):
        assert outcome.agrees({"x": X, "c": np.array(condition)})


def test_loops_over_sequences() -> None:
    body = """s = SequenceEmpty() q = Loop (m, , s) <body = b (int64 i, bool c, seq(float[2,3,4]) v)
        => (bool go, seq(float[2,3,4]) r) { go = Identity(c) r = SequenceInsert(v, x) }>
        y = ConcatFromSequence<axis = 0>(q)"""
    edit = held("m", np.array(2, np.int64))
    assert convert(13, 21, body, edit).agrees({"x": X})
    with pytest.raises(GraphoptError, match="no valid model of opset 12"):
        convert(13, 12, body, edit)


def test_other_domains_stay() -> None:
    source = """<ir_version: 8, opset_import: ["" : 11, "other" : 1]> g (float[2,3] x) =>
        (float[2,3] y) { a = other.Softmax(x) b = Exp(a) y = other.Thing(b) }"""
    outcome = apply(SetOpset(18), source)
    assert [n.domain for n in outcome.after.graph.node] == ["other", "", "other"]
    assert {o.domain: o.version for o in outcome.after.opset_import} == {"": 18, "other": 1}


@pytest.mark.parametrize(("new", "raised"), [(8, 3), (9, 4), (17, 8), (21, 10)])
def test_the_ir_version_and_initializers_that_are_inputs(new: int, raised: int) -> None:
    body = "a = ReduceSum<axes = [1]>(x) y = Mul(a, w)"
    outcome = convert(
        7, new, body, held("w", X[:, :1]), types="float[2,3,4] x, float[2,1,4] w", ir_version=3
    )
    assert outcome.after.ir_version == raised
    names = {t.name for t in outcome.after.graph.initializer}
    assert "w" in names
    assert names == {"w"} or raised >= 4
    assert outcome.agrees({"x": X})


def test_external_weights_are_not_read(tmp_path: Path) -> None:
    source = '<ir_version: 8, opset_import: ["" : 12]> g (float[2,40] x) => (float[2,30] y) {'
    proto = onnx.parser.parse_model(source + "a = MatMul(x, w) b = Add(a, v) y = Softmax(b) }")
    for name, shape in (("w", (40, 30)), ("v", (2, 30))):
        held(name, np.ones(shape, np.float32))(proto)
    save(load(proto), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    assert SetOpset(21).run(model, PassContext()).modified
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None


@pytest.mark.parametrize(
    ("old", "new", "body", "reason"),
    [
        (20, 19, "y = Gelu(x)", "Gelu (node 'y'): No Previous Version of Gelu"),
        (17, 13, "y = LayerNormalization(x, x)", "LayerNormalization"),
        (19, 13, "s = Shape<start = 1>(x) y = Reshape(x, s)", "has no attribute 'start'"),
        (19, 13, "s = Shape(x) y = Reshape<allowzero = 1>(x, s)", "has no attribute 'allowzero'"),
        (9, 17, "a, y = Dropout(x)", "Dropout (node 'a')"),
        (12, 13, "y = Hardmax(x)", "Hardmax (node 'y'): since opset 13 it works along one axis"),
        (13, 12, "y = Hardmax(x)", "Hardmax"),
        (7, 17, "y = Upsample<scales = [1.0, 0.5, 1.0]>(x)", "nearest in a smaller image"),
        (
            8,
            17,
            "y = Scan<body = b (float[3,4] i) => (float[3,4] o) { o = Exp(i) },"
            " num_scan_inputs = 1>(, x)",
            "Scan (node 'y'): it has subgraphs",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(old: int, new: int, body: str, reason: str) -> None:
    message = refused(old, new, body)
    assert f"cannot convert from opset {old} to {new}" in message
    assert reason in message


def test_types_that_the_older_operator_does_not_take() -> None:
    message = refused(14, 13, "y = Relu(x)", types="int32[3] x", out="int32[3] y")
    assert "does not take tensor(int32)" in message


def test_scores_of_attention_mean_something_else_since_opset_24() -> None:
    types = "float[1,2,3,4] q, float[1,2,3,4] k, float[1,2,3,4] v"
    more = {"types": types, "out": "float[a,b,c,d] y, float[e,f,g,h] s"}
    assert "qk_matmul_output" in refused(23, 24, "y, , , s = Attention(q, k, v)", **more)
    more["out"] = "float[a,b,c,d] y"
    assert convert(23, 24, "y = Attention(q, k, v)", **more).result.modified


@pytest.mark.parametrize("version", [0, 6, 1000])
def test_unknown_opsets(version: int) -> None:
    assert f"no opset {version}" in refused(17, version, "y = Relu(x)")


def test_functions_are_to_be_inlined_first() -> None:
    source = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[3] x) => (float[3] y)
        { y = local.F(x) } <domain: "local", opset_import: ["" : 17]> F (t) => (s) { s = Exp(t) }"""
    with pytest.raises(GraphoptError, match="inline,eliminate-dead"):
        apply(SetOpset(21), source)


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    source = (
        '<ir_version: 8, opset_import: ["" : 20]> g (float[3] x) => (float[3] y) { y = Gelu(x) }'
    )
    model = load(onnx.parser.parse_model(source))
    content = serialized(model)
    with pytest.raises(GraphoptError):
        SetOpset(19).run(model, PassContext())
    assert serialized(model) == content


def test_it_is_an_option() -> None:
    assert str(parse("set-opset{version=21}")) == "set-opset{version=21}"
