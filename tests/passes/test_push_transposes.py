"""push-transposes: through what Transposes are moved, and where they meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from pushing import FIRST, LAST, X, numbers, push, transposes
from rewriting import apply, both, held

from graphopt_passes.push_transposes import PushTransposes

# Through one operator: x in NCHW, the operator in NHWC (2, 3, 4, 5), the result in NCHW


@pytest.mark.parametrize(
    "node",
    [
        "Relu (t)",
        "Clip (t, zero, six)",
        "LeakyRelu <alpha = 0.3> (t)",
        "Add (t, vector)",
        "Sub (vector, t)",
        "Mul (t, column)",
        "Div (t, one)",
        "Add (full, t)",
        "PRelu (t, vector)",
        "Max (t, one, vector)",
        "Add (t, t)",
        "Sum (t, vector, t)",
        "Softmax <axis = 3> (t)",
        "LogSoftmax <axis = -3> (t)",
        "Concat <axis = 3> (t, t)",
        "Concat <axis = -4> (t, t)",
        "Slice (t, i1, i4, i2)",
        "Pad (t, pads)",
        "Tile (t, times)",
        "Expand (t, larger)",
        "Gather <axis = 3> (t, picked)",
        "Gather <axis = -2> (t, picked)",
    ],
)
def test_one_operator(node: str) -> None:
    outcome = push(f"t = Transpose {LAST} (x) o = {node} y = Transpose {FIRST} (o)")
    assert outcome.operators == [node.split()[0]]
    assert outcome.agrees(X)


@pytest.mark.parametrize(
    "nodes",
    [
        "g = Greater (t, zero) o = Where (g, t, vector)",
        "g = Greater (t, vector) n = Not (g) o = Cast <to = 1> (n)",
        "p, q = Split <axis = 3> (t, parts) o = Concat <axis = 3> (q, p)",
        "q = QuantizeLinear <axis = 3> (t, scales, points) "
        "o = DequantizeLinear <axis = -1> (q, scales, points)",
        "q = QuantizeLinear (t, scale) o = DequantizeLinear (q, scale)",
        "g = ArgMax <axis = 3> (t) f = Cast <to = 1> (g) o = Mul (f, t)",
        "g = Cast <to = 7> (t) s = ReduceSum (g, i1) f = Cast <to = 1> (s) o = Add (f, t)",
        "s = Sigmoid (t) m = Mul (t, s) a = Add (m, vector) o = Tanh (a)",
    ],
)
def test_several_operators(nodes: str) -> None:
    outcome = push(f"t = Transpose {LAST} (x) {nodes} y = Transpose {FIRST} (o)")
    assert transposes(outcome) == 0
    assert outcome.agrees(X)


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 18])
def test_what_became_inputs(opset: int) -> None:
    """Slice, Pad, Squeeze and Unsqueeze by the attributes or the inputs of their opset."""
    cut = "c = Slice <axes = [3], starts = [1], ends = [4]> (t)"
    pad = "p = Pad <pads = [0, 1, 0, 2, 0, 0, 1, 0]> (c)"
    grow, shrink = "u = Unsqueeze <axes = [2]> (p)", "s = Squeeze <axes = [2]> (u)"
    if opset >= 10:
        cut = "c = Slice (t, i1, i4, axis3)"
    if opset >= 11:
        pad = "p = Pad (c, pads)"
    if opset >= 13:
        grow, shrink = "u = Unsqueeze (p, i2)", "s = Squeeze (u, i2)"
    outcome = push(
        f"t = Transpose {LAST} (x) {cut} {pad} {grow} {shrink} y = Transpose {FIRST} (s)",
        opset=opset,
        edit=held("axis3", np.array([3], np.int64)),
    )
    assert outcome.operators == ["Slice", "Pad", "Unsqueeze", "Squeeze"]
    assert outcome.agrees(X)


def test_pads_of_some_axes() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) p = Pad (t, parts, zero, i2) y = Transpose {FIRST} (p)", opset=18
    )
    assert outcome.operators == ["Pad"]
    assert outcome.agrees(X)


# Where they meet


def test_both_operands_of_a_sum() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) u = Transpose {LAST} (z) y = Add (t, u)",
        inputs="float[2, 5, 3, 4] x, float[2, 5, 3, 4] z",
    )
    assert outcome.operators == ["Add", "Transpose"]
    assert outcome.agrees(X | {"z": numbers(2, 5, 3, 4)})


def test_a_gate_that_broadcasts() -> None:
    """Squeeze and excitation: both operands come out of convolutions."""
    outcome = push(
        f"t = Transpose {LAST} (x) u = Transpose {LAST} (z) s = Sigmoid (u) m = Mul (t, s) "
        f"y = Transpose {FIRST} (m)",
        inputs="float[2, 5, 3, 4] x, float[2, 5, 1, 1] z",
    )
    assert outcome.operators == ["Sigmoid", "Mul"]
    assert outcome.agrees(X | {"z": numbers(2, 5, 1, 1)})


def test_axes_that_go() -> None:
    """What is left of the Transpose may be the identity."""
    for node in ("ReduceSum <keepdims = 0> (g, axes)", "ArgMin <axis = 1, keepdims = 0> (g)"):
        rest = "s = Squeeze (o, i1) y = Identity (s)" if "Arg" in node else "y = Identity (o)"
        outcome = push(
            f"t = Transpose {LAST} (x) g = Cast <to = 7> (t) o = {node} {rest}",
            inputs="float[2, 5, 3, 4] x" if "Sum" in node else "float[2, 5, 3, 1] x",
            outputs="int64[a, b] y",
            edit=held("axes", np.array([1, -2], np.int64)),
        )
        assert transposes(outcome) == 0
        assert outcome.agrees({"x": 9 * numbers(2, 5, 3, 4 if "Sum" in node else 1)})


def test_a_gather_of_one_index_drops_an_axis() -> None:
    outcome = push(
        "t = Transpose <perm = [1, 0]> (x) y = Gather <axis = 0> (t, at1)",
        inputs="float[3, 4] x",
        outputs="float[a] y",
    )
    assert outcome.operators == ["Gather"]
    assert outcome.agrees({"x": numbers(3, 4)})


@pytest.mark.parametrize("part", ["", " <start = 1>", " <start = -3, end = -1>"])
def test_only_the_shape_is_wanted(part: str) -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) r = Relu (t) s = Shape{part} (r) y = Transpose {FIRST} (r)",
        inputs="float[n, 5, h, 4] x",
        outputs="float[a, b, c, d] y, int64[k] s",
    )
    assert sorted(outcome.operators) == ["Gather", "Relu", "Shape"]
    assert outcome.agrees(X)


def test_one_transpose_is_left_where_three_were() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) r = Relu (t) w = Exp (r) y = Transpose {FIRST} (r) "
        f"z = Transpose {FIRST} (w) ",
        outputs="float[a, b, c, d] y, float[e, f, g, h] z, float[i, j, k, l] r",
    )
    assert sorted(outcome.operators) == ["Exp", "Relu", "Transpose"]
    assert [value.name for value in outcome.after.graph.output] == ["y", "z", "r"]
    assert outcome.agrees(X)


def test_other_perms_are_composed() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) u = Transpose {LAST} (z) s = Add (t, u) "
        "y = Transpose <perm = [3, 1, 2, 0]> (s)",
        inputs="float[2, 5, 3, 4] x, float[2, 5, 3, 4] z",
    )
    assert outcome.operators == ["Add", "Transpose"]
    assert outcome.agrees(X | {"z": numbers(2, 5, 3, 4)})


def test_what_cannot_be_moved_gets_its_own_transpose() -> None:
    outcome = push(
        f"t = Transpose {LAST} (x) r = Relu (t) s = MatMul (r, square) u = Transpose {FIRST} (r) "
        "v = Reshape (s, as_x) y = Add (u, v)",
        edit=both(held("as_x", np.array([2, 5, 3, 4], np.int64)), held("square", numbers(5, 5))),
    )
    assert sorted(outcome.operators) == ["Add", "MatMul", "Relu", "Reshape", "Transpose"]
    assert outcome.agrees(X)


def residual_net(blocks: int) -> onnx.ModelProto:
    """As TensorFlow's converter writes it: Convs in NCHW, all the rest in NHWC."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def node(op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(nodes)}"
        nodes.append(onnx.helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def weight(*shape: int) -> str:
        name = f"w{len(weights)}"
        array = rng.standard_normal(shape).astype(np.float32) / 4
        weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def conv(value: str, channels: int) -> str:
        moved = node("Transpose", value, perm=[0, 3, 1, 2])
        result = node("Conv", moved, weight(8, channels, 1, 1))
        return node("Add", node("Transpose", result, perm=[0, 2, 3, 1]), weight(8))

    value = node("Relu", conv("x", 3))
    for _ in range(blocks):
        branch = conv(node("Relu", conv(value, 8)), 8)
        value = node("Relu", node("Add", value, node("Mul", branch, node("Sigmoid", branch))))
    nodes[-1].output[0] = "y"
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 6, 6, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 6, 6, 8])],
        weights,
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 15)], ir_version=8
    )


@pytest.mark.parametrize("blocks", [1, 3, 30])
def test_a_whole_residual_net(blocks: int) -> None:
    """One Transpose behind the input and one ahead of the output, however many regions it takes."""
    outcome = apply(PushTransposes(), residual_net(blocks))
    assert transposes(outcome) == 2
    assert outcome.agrees({"x": numbers(2, 6, 6, 3)})
