"""What is known of values before a model runs: types, dimensions, small integers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from facts_check import contradictions, facts_of
from models import proto

from graphopt.ir.facts import Fact, Facts


def model(body: str, inputs: str, more: str = "", opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => () {more} {{ {body} }}'
    return onnx.parser.parse_model(text)


def dims(body: str, inputs: str, more: str = "", opset: int = 17) -> list[str]:
    """The dimensions of `y` as text; "?" for those that are not known."""
    fact = facts_of(model(body, inputs, more, opset))["y"]
    assert fact.dims is not None
    return ["?" if str(dim).startswith("?") else str(dim).replace("'", "") for dim in fact.dims]


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "inputs", "expected"),
    [
        ("y = Relu (x)", "float[n, 3] x", ["n", "3"]),
        ("y = Add (x, z)", "float[n, 1] x, float[3] z", ["n", "3"]),
        ("y = Add (x, z)", "float[n] x, float[n] z", ["n"]),
        ("y = Add (x, z)", "float[n] x, float[m] z", ["broadcast(m,n)"]),
        ("y = Transpose (x)", "float[n, 3, m] x", ["m", "3", "n"]),
        ("y = Transpose <perm = [0, 2, 1]> (x)", "float[n, 3, m] x", ["n", "m", "3"]),
        ("y = Concat <axis = 1> (x, x, z)", "float[n, m] x, float[n, 4] z", ["n", "4+2*m"]),
        ("y = Flatten <axis = 2> (x)", "float[n, 3, m] x", ["3*n", "m"]),
        ("y = MatMul (x, z)", "float[n, 3, m] x, float[m, 5] z", ["n", "3", "5"]),
        ("y = Gemm <transA = 1> (x, z)", "float[n, m] x, float[n, 5] z", ["m", "5"]),
        ("y = ReduceMean <axes = [1]> (x)", "float[n, m] x", ["n", "1"]),
        ("y = ReduceMax <axes = [-1], keepdims = 0> (x)", "float[n, m] x", ["n"]),
        ("y = Squeeze (x)", "float[1, 3, 1] x", ["3"]),
        (
            'y = Einsum <equation = "bhi,bhj->bij"> (x, z)',
            "float[n, 1, 3] x, float[n, m, 5] z",
            ["n", "3", "5"],
        ),
        ("y = ArgMax <axis = 1, keepdims = 0> (x)", "float[n, m, 3] x", ["n", "3"]),
        ("y = NonZero (x)", "float[n, m, 3] x", ["3", "?"]),
        ("y = NonZero (x)", "float x", ["?", "?"]),
        ("y = DepthToSpace <blocksize = 2> (x)", "float[n, 8, h, w] x", ["n", "2", "2*h", "2*w"]),
        ("y = GlobalAveragePool (x)", "float[n, c, h, w] x", ["n", "c", "1", "1"]),
        ("s = Shape (x) y = Reshape (z, s)", "float[n, 3] x, float[k] z", ["?", "3"]),
        (
            "s = Shape (x) y = Reshape <allowzero = 1> (z, s)",
            "float[n, 3] x, float[k] z",
            ["n", "3"],
        ),
        ("s = Shape (x) y = Expand (z, s)", "float[n, 3] x, float[1] z", ["n", "3"]),
        ("s = Shape (x) y = ConstantOfShape (s)", "float[n, 3] x", ["n", "3"]),
    ],
)
def test_dims(body: str, inputs: str, expected: list[str]) -> None:
    assert dims(body, inputs) == expected


@pytest.mark.parametrize(
    ("node", "inputs", "sizes"),
    [
        ("Conv (x, w)", "float[n, 3, h] x", ["n", "5", "-1+h"]),
        ("Conv <pads = [1, 0]> (x, w)", "float[n, 3, h] x", ["n", "5", "h"]),
        ("Conv <dilations = [3], pads = [2, 1]> (x, w)", "float[n, 3, h] x", ["n", "5", "h"]),
        (
            "Conv <strides = [2], pads = [1, 0]> (x, w)",
            "float[n, 3, h] x",
            ["n", "5", "floor((1+h)/2)"],
        ),
        ('Conv <auto_pad = "SAME_LOWER"> (x, w)', "float[n, 3, h] x", ["n", "5", "h"]),
        ('Conv <auto_pad = "VALID"> (x, w)', "float[n, 3, 9] x", ["n", "5", "8"]),
        (
            'Conv <auto_pad = "SAME_UPPER", strides = [2]> (x, w)',
            "float[n, 3, h] x",
            ["n", "5", "floor((1+h)/2)"],
        ),
        ("ConvTranspose <strides = [2]> (x, v)", "float[n, 5, h] x", ["n", "3", "2*h"]),
        (
            "ConvTranspose <strides = [2], pads = [1, 1], output_padding = [1]> (x, v)",
            "float[n, 5, h] x",
            ["n", "3", "-1+2*h"],
        ),
        ("MaxPool <kernel_shape = [2], strides = [2]> (x)", "float[n, 3, 7] x", ["n", "3", "3"]),
        (
            "MaxPool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x)",
            "float[n, 3, 7] x",
            ["n", "3", "4"],
        ),
        ("Pad (x, p)", "float[n, 3, h] x", ["n", "4", "1+h"]),
        ("Resize (x, , r)", "float[n, 3, h] x", ["n", "3", "2*h"]),
        ("Resize (x, , , z)", "float[n, 3, h] x", ["n", "6", "10"]),
    ],
)
def test_windows(node: str, inputs: str, sizes: list[str]) -> None:
    more = (
        "<float[5, 3, 2] w = {"
        + ", ".join(["1"] * 30)
        + "}, float[5, 3, 2] v = {"
        + ", ".join(["1"] * 30)
        + "}, int64[6] p = {0, 1, 0, 0, 0, 1}, float[3] r = {1, 1, 2}, "
        "int64[1] i0 = {0}, int64[2] z2 = {6, 10}>"
    )
    body = f"s = Shape <end = 1> (x) z = Concat <axis = 0> (s, z2) y = {node}"
    assert dims(body, inputs, more) == sizes
    for n, h in ((1, 7), (3, 8)):
        shape = [n if d == "n" else h if d == "h" else int(d) for d in _declared(inputs)]
        checked = model(body, inputs, more)
        assert contradictions(checked, {"x": np.ones(shape, np.float32)}) == []


def _declared(inputs: str) -> list[str]:
    return inputs[inputs.index("[") + 1 : inputs.index("]")].replace(" ", "").split(",")


@pytest.mark.parametrize(
    ("opset", "node", "expected"),
    [
        (12, "y, z = Split <axis = 1> (x)", ["n", "3"]),
        (12, "y, z = Split <axis = 1, split = [4, 2]> (x)", ["n", "4"]),
        (13, "y, z = Split <axis = 1> (x, s)", ["n", "2"]),
        (18, "a, b, c, y = Split <axis = 1, num_outputs = 4> (x)", ["n", "0"]),
        (18, "y, z = Split <num_outputs = 2> (x)", ["?", "6"]),
        (11, "y, z = TopK <axis = 1> (x, i)", ["n", "2"]),
    ],
)
def test_several_outputs(opset: int, node: str, expected: list[str]) -> None:
    more = "<int64[2] s = {2, 4}, int64[1] i = {2}>"
    assert dims(node, "float[n, 6] x", more, opset) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # the whole, known by its end or by the dimension itself
        ("y = Slice (x, i0, far, i0)", ["n", "4"]),
        ("s = Shape <end = 1> (x) y = Slice (x, i0, s, i0)", ["n", "4"]),
        ("s = Shape <end = 1> (x) y = Slice (x, i1, s, i0)", ["?", "4"]),
        ("y = Slice (x, i0, i1, i0)", ["?", "4"]),
        ("y = Slice (x, i0, i1, i1)", ["n", "1"]),
        ("y = Slice (x, i0, i1, k)", ["?", "?"]),
        ("y = Slice (x, k, far, i1)", ["n", "?"]),
        ("y = Slice (x, i0, far, i0, k)", ["?", "4"]),
    ],
)
def test_slices(body: str, expected: list[str]) -> None:
    constants = "<int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] far = {9223372036854775807}>"
    assert dims(body, "float[n, 4] x, int64[1] k", constants) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("{0, -1}", ["n", "12"]),
        ("{-1, 12}", ["n", "12"]),
        ("{-1, 4}", ["3*n", "4"]),
        ("{-1, 24}", ["?", "24"]),
        ("{0, 0, 2, -1}", ["n", "3", "2", "2"]),
        ("{2, 3, -1}", ["2", "3", "2*n"]),
        ("{0, 5, -1}", ["n", "5", "?"]),
    ],
)
def test_reshapes(shape: str, expected: list[str]) -> None:
    constants = f"<int64[{shape.count(',') + 1}] s = {shape}>"
    assert dims("y = Reshape (x, s)", "float[n, 3, 4] x", constants) == expected


# --- elements -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Shape (x)", "n 4"),
        ("y = Shape <start = -1> (x)", "4"),
        ("s = Shape (x) y = Gather (s, i10)", "4 n"),
        ("s = Shape (x) p = ReduceProd (s) y = Div (p, i2)", "2*n"),
        ("s = Shape (x) a = Mul (s, i2) y = Add (a, i10)", "1+2*n 8"),
        ("s = Shape (x) y = Slice (s, im, far, i0)", "4"),
        ("s = Shape (x) a, b = Split (s) y = Concat <axis = 0> (b, a)", "4 n"),
        ("s = Shape (x) t = Equal (s, im) y = Where (t, i2, s)", "n 4"),
        ("s = Shape (x) y = Mod (s, i2)", "None 0"),
        ("s = Shape (x) y = Max (s, i2)", "None 4"),
        ("z = Size (x) y = Reshape (z, im)", "4*n"),
        ("s = Shape (x) c = Cast <to = 6> (s) y = Cast <to = 7> (c)", "None 4"),
    ],
)
def test_items(body: str, expected: str) -> None:
    constants = (
        "<int64[2] i10 = {1, 0}, int64[1] i2 = {2}, int64[1] im = {-1}, int64[1] i0 = {0}, "
        "int64[1] far = {9223372036854775807}>"
    )
    items = facts_of(model(body, "float[n, 4] x", constants))["y"].items
    assert items is not None
    assert " ".join(str(item).replace("'", "") for item in items) == expected


def test_integers_wrap_around_and_are_not_followed_there() -> None:
    body = "y = Mul (c, c) z = Add (d, d)"
    constants = "<int32[1] c = {65536}, int64[1] d = {9223372036854775807}>"
    facts = facts_of(model(body, "float x", constants))
    assert facts["y"].items == facts["z"].items == (None,)


# --- what is trusted ------------------------------------------------------------------------------


def test_shapes_that_a_file_claims_are_not_trusted() -> None:
    wrong = model("r = Relu (x) y = own.f (r) z = Neg (y)", "float[n] x")
    wrong.opset_import.add(domain="own", version=1)
    for name in ("r", "y", "z"):
        wrong.graph.value_info.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [7, 7])
        )
    facts = facts_of(wrong)
    assert [str(dim) for dim in facts["r"].dims or ()] == ["'n'"]
    assert facts["y"] == facts["z"] == Fact(ir.DataType.FLOAT)


def test_names_that_say_nothing_are_not_one_number() -> None:
    anonymous = model("y = Add (x, z)", "float[q] x, float[q] z")
    for value in anonymous.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "?"
    facts = facts_of(anonymous)
    assert facts["x"].dims != facts["z"].dims


def test_symbols_are_no_names_of_values() -> None:
    """Values of sibling branches may have one name; so may a new value and one that is gone."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (bool b, float[12] x, int64[1] s) => (float[k] y) {
        y = If (b) <
            then_branch = t () => (float[k] p) { r = Reshape (x, s) p = Relu (r) },
            else_branch = e () => (float[k] q) { r = Reshape (x, s) q = Neg (r) }
        >
    }"""
    loaded = ir.from_proto(proto(text))
    facts = Facts(loaded)
    branches = [a.as_graph() for a in loaded.graph[0].attributes.values()]
    one, other = (facts.dims(graph.outputs[0]) for graph in branches)
    assert one is not None
    assert other is not None
    assert one != other
    assert facts.dims(loaded.graph.outputs[0]) is None


def test_equal_branches_give_their_dims() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (bool b, float[n, 3] x) => (float[n, 3] y) {
        y = If (b) <
            then_branch = t () => (float[n, 3] p) { p = Relu (x) },
            else_branch = e () => (float[n, 3] q) { q = Neg (x) }
        >
    }"""
    fact = facts_of(proto(text))["y"]
    assert fact.dtype == ir.DataType.FLOAT
    assert [str(dim) for dim in fact.dims or ()] == ["'n'", "3"]


def test_what_a_loop_carries_may_change_its_shape() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (int64 m, float[1] x) => (float[k] y) <bool c = {1}> {
        y = Loop (m, c, x) <body = b (int64 i, bool go, float[j] h) => (bool again, float[l] next) {
            again = Identity (go)
            next = Concat <axis = 0> (h, h)
        }>
    }"""
    assert facts_of(proto(text))["y"] == Fact(ir.DataType.FLOAT)


def test_attributes_that_are_parameters_are_not_known() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]>
    g (float[1, 3] x) => (float[3] y) { y = own.f <to = 1> (x) }
    <domain: "own", opset_import: ["" : 17]> f <to> (a) => (b) {
        c = Constant <value = int64[1, 3] {1, 2, 3}> ()
        d = Cast <to : int = @to> (c)
        b = Add (a, d)
    }"""
    loaded = ir.from_proto(onnx.parser.parse_model(text))
    (function,) = loaded.functions.values()
    assert Facts(loaded)[function[1].outputs[0]] == Fact()


def test_operators_that_the_model_defines_anew_are_not_known() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[1, 3] x) => (float[k] y) { y = Relu (x) }
    <domain: "ai.onnx", opset_import: ["" : 17]> Relu (a) => (b) { b = Flatten (a) }"""
    assert facts_of(onnx.parser.parse_model(text))["y"].dims is None


def test_a_default_that_a_caller_may_override_is_no_constant() -> None:
    overridable = model("y = Reshape (x, s)", "float[n, 4] x, int64[2] s = {4, -1}")
    fact = facts_of(overridable)["y"]
    assert fact.dims is not None
    assert not any(isinstance(dim, int) for dim in fact.dims)


def test_the_type_of_a_scale_is_that_of_rms_normalization() -> None:
    body = "y = RMSNormalization (x, s)"
    assert facts_of(model(body, "float16[n, 4] x, float[4] s", opset=23))["y"] == Fact(
        ir.DataType.FLOAT, facts_of(model(body, "float16[n, 4] x, float[4] s", opset=23))["x"].dims
    )


def test_facts_can_be_forgotten() -> None:
    loaded = ir.from_proto(model("s = Shape (x) y = Reshape (x, s)", "float[n, 4] x"))
    facts = Facts(loaded)
    shape, result = (node.outputs[0] for node in loaded.graph)
    known = facts[result]
    facts.refine()
    assert facts[result] == known
    facts.forget(shape)
    assert facts[shape].items == known.dims


def test_a_value_of_another_node_is_looked_at_again() -> None:
    body = "s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s)"
    loaded = ir.from_proto(model(body, "float[n, 4] x"))
    facts, join = Facts(loaded), loaded.graph[1]
    assert facts.dims(join.outputs[0]) is None
    join.op_type = "Concat"
    join.resize_inputs(2)
    for index in range(2):
        join.replace_input_with(index, loaded.graph.inputs[0])
    facts.reconsider(join.outputs[0])
    assert [str(dim) for dim in facts.dims(join.outputs[0]) or ()] == ["2*'n'", "4"]


def test_renewed_facts_are_those_of_a_new_start() -> None:
    """Also where the way there used to tell more, and for what depends on it."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 4] x) => (int64[K] y) <int64[2] there = {4, 1}, int64[2] back = {-1, 4}>
    { t = Reshape (x, there) b = Reshape (t, back) r = Relu (b) y = Shape (r) }"""
    loaded = ir.from_proto(proto(text))
    facts = Facts(loaded)
    _, back, relu, shape = loaded.graph
    assert facts[shape.outputs[0]].ints() == [1, 4]
    back.replace_input_with(0, loaded.graph.inputs[0])
    assert facts[shape.outputs[0]].ints() == [1, 4]
    facts.renew([back])
    anew = Facts(loaded)
    for node in (back, relu, shape):
        assert facts[node.outputs[0]] == anew[node.outputs[0]]
    assert facts[shape.outputs[0]].ints() is None
