"""Queries, edits, shape inference and cost."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from models import MLP, big_model, model, serialized

import graphopt
from graphopt.ir import (
    Names,
    add_initializer,
    constant_array,
    forget_shapes,
    infer_shapes,
    sole_use,
    static_shape,
    take_over,
)


def test_a_default_value_that_a_caller_can_override_is_no_constant() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[2] x, float[2] w) => (float[2] y)
        <float[2] w = {1, 2}, float[2] v = {3, 4}>
        { c = Constant <value = float[2] {5, 6}> () a = Add (x, w) b = Add (a, v) y = Add (b, c) }
    """)
    adds = [node for node in m.graph if node.op_type == "Add"]
    assert constant_array(adds[0].inputs[1]) is None
    assert constant_array(adds[1].inputs[1]).tolist() == [3, 4]
    assert constant_array(adds[2].inputs[1]).tolist() == [5, 6]
    assert constant_array(adds[2].inputs[0]) is None


def test_sole_use_counts_captures_and_graph_outputs() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[2] x, bool c) => (float[2] y, float[2] z) {
            a = Neg (x)
            b = Abs (a)
            y = If (c) <then_branch = t () => (float[2] p) { p = Add (a, b) },
                        else_branch = e () => (float[2] q) { q = Identity (b) }>
            z = Relu (x)
            d = Relu (z)
        }
    """)
    values = {value.name: value for node in m.graph for value in node.outputs}
    assert sole_use(values["a"]) is None  # Abs, and a node inside the If
    assert sole_use(values["z"]) is None  # one use, but a graph output as well
    assert sole_use(m.graph.inputs[1]).op_type == "If"


def test_take_over_keeps_the_name_of_an_output() -> None:
    m = model()
    relu, matmul = m.graph[1], m.graph[2]
    m.graph.outputs[0].metadata_props["note"] = "kept"
    assert take_over(matmul.outputs[0], relu.outputs[0])
    m.graph.remove(matmul, safe=True)
    assert [value.name for value in m.graph.outputs] == ["y"]
    assert m.graph.outputs[0].metadata_props == {"note": "kept"}
    assert m.graph.outputs[0].producer() is relu


def test_take_over_refuses_what_would_change_the_interface() -> None:
    m = model()
    output, before = m.graph.outputs[0], serialized(m)
    assert not take_over(output, m.graph.inputs[0])
    assert not take_over(output, m.graph.initializers["w"])
    assert serialized(m) == before


def test_names_are_free_in_every_graph() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[2] x, bool c) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] p) { p = Neg (x) },
                        else_branch = e () => (float[2] q) { q = Abs (x) }>
        }
    """)
    names = Names(m)
    assert names.fresh("p") == "p_1"
    assert names.fresh("p") == "p_2"
    assert names.fresh("new") == "new"
    value = add_initializer(m.graph, names.fresh("x"), ir.tensor([1.0]))
    assert value.name == "x_1"


def test_inference_keeps_what_is_known_and_the_interface() -> None:
    m = model(MLP.replace("float[batch, 2] y", "float[batch, k] y"))
    infer_shapes(m)
    h, r, y = (node.outputs[0] for node in m.graph)
    assert list(h.shape) == ["batch", 3]
    assert list(r.shape) == ["batch", 3]
    assert list(y.shape) == ["batch", "k"]  # an output's own names stay
    h.shape = ir.Shape(["mine", 3])
    infer_shapes(m)
    assert list(h.shape) == ["mine", 3]
    forget_shapes(m.graph)
    assert h.shape is None
    assert list(y.shape) == ["batch", "k"]


def test_a_default_shape_that_a_caller_can_override_is_no_fact() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[6] x, int64[2] s) => (float[a, b] y) <int64[2] s = {2, 3}>
        { r = Reshape (x, s) y = Identity (r) }
    """)
    infer_shapes(m)
    assert static_shape(m.graph[0].outputs[0]) is None


def test_inference_does_not_touch_weights_or_inputs() -> None:
    m = big_model()
    before = serialized(m)
    infer_shapes(m)
    assert serialized(m) == before
    assert [value.name for value in m.graph.inputs] == ["x"]


def test_a_contradiction_leaves_the_shape_unknown() -> None:
    m = model(MLP.replace("float[3, 2] v = {1, -1, 2, -2, 3, -3}", "float[2, 1] v = {1, 2}"))
    m.graph.outputs[0].shape = None
    infer_shapes(m)
    assert [static_shape(node.outputs[0]) for node in m.graph] == [None, None, None]
    assert m.graph[2].outputs[0].shape is None


def ones(count: int) -> str:
    return ", ".join(["1"] * count)


def recurrent(kind: str, x: str, y: str, directions: int, rows: int, more: str = "") -> str:
    """A layer of 2 units on 3 features, with weights of `rows` rows and no bias."""
    weights = ", ".join(
        f"float[{directions}, {rows}, {width}] {name} = {{{ones(directions * rows * width)}}}"
        for name, width in (("w", 3), ("r", 2))
    )
    attributes = ", ".join(filter(None, ["hidden_size = 2", more]))
    return f"""<ir_version: 9, opset_import: ["" : 17]>
        g ({x} x) => ({y} y) <{weights}> {{ y = {kind} <{attributes}> (x, w, r) }}"""


COSTS = {
    # name: (text, MACs by hand, parameters by hand)
    "gemm": (MLP, 4 * 3 + 3 * 2, 12 + 3 + 6),
    "conv": (
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 4, 8, 8] x) => (float[n, 6, 4, 4] y) {
            w = Constant <value = float[6, 2, 3, 3] {WEIGHTS}> ()
            y = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
        }""".replace("WEIGHTS", ones(108)),
        6 * 4 * 4 * 2 * 9,
        108,
    ),
    "conv_transpose": (
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 2, 5, 5] x, float[2, 3, 2, 2] w) => (float[n, 3, 10, 10] y) {
            y = ConvTranspose <strides = [2, 2]> (x, w)
        }""",
        2 * 25 * 3 * 4,
        0,
    ),
    "batched_matmul": (
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 3, 5, 7] a, float[n, 3, 7, 2] b) => (float[n, 3, 5, 2] y) {
            y = MatMul (a, b)
        }""",
        3 * 5 * 7 * 2,
        0,
    ),
    "lstm": (recurrent("LSTM", "float[7, 1, 3]", "float[7, 1, 1, 2]", 1, 8), 7 * 8 * (3 + 2), 40),
    "both_ways": (
        recurrent("RNN", "float[7, 1, 3]", "float[7, 2, 1, 2]", 2, 2, 'direction="bidirectional"'),
        2 * 7 * 2 * (3 + 2),
        20,
    ),
    "batch_first": (
        recurrent("GRU", "float[n, 7, 3]", "float[n, 7, 1, 2]", 1, 6, "layout = 1"),
        7 * 6 * (3 + 2),
        30,
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_cost_by_hand(name: str) -> None:
    text, macs, parameters = COSTS[name]
    cost = graphopt.measure(model(text))
    assert (cost.macs, cost.parameters, cost.unknown) == (macs, parameters, ())
    assert cost.weight_bytes == 4 * parameters


def test_a_sequence_of_free_length_is_as_long_as_it_was_seen_to_be() -> None:
    m = model(recurrent("GRU", "float[n, l, 3]", "float[n, l, 1, 2]", 1, 6, "layout = 1"))
    assert len(graphopt.measure(m).unknown) == 1
    assert graphopt.measure(m, {"x": (1, 5, 3)}).macs == 5 * 6 * (3 + 2)


def test_unknown_shapes_are_said_and_not_guessed() -> None:
    m = model(
        """
        <ir_version: 9, opset_import: ["" : 17, "my" : 1]>
        g (float[n, 4] x) => (float[n, 2] y)
        <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}>
        { h = my.Mystery (x) [dot] y = MatMul (h, w) }
    """.replace("[dot] y = MatMul", "y = MatMul")
    )
    m.graph[1].name = "dot"
    cost = graphopt.measure(m)
    assert cost.macs == 0
    assert cost.unknown == ("dot",)
    assert static_shape(m.graph[0].outputs[0]) is None


def test_scales_and_zero_points_are_bytes_but_no_parameters() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 2] x) => (float[n, 2] y)
        <int8[2, 2] w = {1, 2, 3, 4}, float[2] scale = {0.5, 0.25}, int8[2] zero = {0, 0}>
        { d = DequantizeLinear <axis = 1> (w, scale, zero) y = MatMul (x, d) }
    """)
    cost = graphopt.measure(m)
    assert (cost.parameters, cost.weight_bytes) == (4, 4 + 8 + 2)
    assert cost.per_node[1][1:] == ("MatMul", 2 * 2, 4)


def test_shared_weights_count_once() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}>
        { a = MatMul (x, w) y = MatMul (a, w) }
    """)
    before = serialized(m)
    cost = graphopt.measure(m)
    assert (cost.parameters, cost.macs) == (4, 8)
    assert serialized(m) == before


def test_what_runs_any_number_of_times_is_not_counted_but_named() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[2, 2] x, bool c) => (float[2, 2] y) {
            y = If (c) <then_branch = t () => (float[2, 2] p) { p = MatMul (x, x) },
                        else_branch = e () => (float[2, 2] q) { q = Identity (x) }>
        }
    """)
    assert len(graphopt.measure(m).unknown) == 1
