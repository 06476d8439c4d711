"""What `quantize` refuses, leaves alone and tells."""

from __future__ import annotations

import numpy as np
import pytest
from models import serialized
from quantize_nets import body, constant, context, data, decibels, net, quantize, runtime

import graphopt
from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset
from graphopt.pipeline.base import PassContext
from graphopt.targets.quantization import quantization_rules
from graphopt_passes.quantize import Quantize

VECTOR = ("float[N, 16] x", "float[N, 8] y")
IMAGE = ("float[N, 4, 8, 8] x", "float[N, C, H, W] y")

# What stays float: the body, the interface, the initializers, and the reason.
LEFT = {
    "a weight from the input": (
        "y = Conv(x, w)",
        (f"{IMAGE[0]}, float[4, 4, 3, 3] w", IMAGE[1]),
        {},
        "its weight is an input of the model",
    ),
    "a computed weight": (
        "k = Mul(w, s) y = Conv(x, k)",
        (f"{IMAGE[0]}, float[1] s", IMAGE[1]),
        {"w": (4, 4, 3, 3)},
        "its weight is computed from the input",
    ),
    "a weight behind a Transpose": (
        "t = Transpose(w) y = MatMul(x, t)",
        VECTOR,
        {"w": (8, 16)},
        "its weight is computed from constants; run fold-constants first",
    ),
    "a weight behind an Identity of a Transpose": (
        "t = Transpose(w) i = Identity(t) y = MatMul(x, i)",
        VECTOR,
        {"w": (8, 16)},
        "its weight is computed from constants; run fold-constants first",
    ),
    "a weight of another rank": (
        "y = MatMul(x, w)",
        ("float[2, 5, 16] x", "float[2, 5, 8] y"),
        {"w": (2, 16, 8)},
        "its weight has rank 3",
    ),
    "a matrix times a vector": (
        "y = MatMul(x, w)",
        ("float[N, 16] x", "float[N] y"),
        {"w": (16,)},
        "its weight has rank 1",
    ),
    "a weight in the first place": (
        "y = MatMul(w, x)",
        ("float[16, N] x", "float[8, N] y"),
        {"w": (8, 16)},
        "the constant is its first input; only the second can be the weight",
    ),
    "a Gemm with transA": (
        "y = Gemm<transA=1>(x, w)",
        ("float[16, N] x", "float[N, 8] y"),
        {"w": (16, 8)},
        "its transA is set",
    ),
    "float64": (
        "y = MatMul(x, w)",
        ("double[N, 16] x", "double[N, 8] y"),
        {"w": np.ones((16, 8))},
        "its weight is double, not float32 or float16",
    ),
    "constants": (
        "c = MatMul(v, w) y = Add(x, c)",
        ("float[8, 8] x", "float[8, 8] y"),
        {"v": (8, 16), "w": (16, 8)},
        "all its inputs are constant; run fold-constants first",
    ),
    "a transposed convolution": (
        "y = ConvTranspose(x, w)",
        IMAGE,
        {"w": (4, 4, 3, 3)},
        "TensorRT has no int8 kernel for it that builds everywhere",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_computed_in_integers_stays_float_and_is_told(case: str) -> None:
    text, (inputs, outputs), weights, reason = LEFT[case]
    model = net(text, inputs, outputs, **weights)
    before = serialized(model)
    result = quantize(model)
    model = result.model
    assert not result.modified
    assert serialized(model) == before
    assert [row["reason"] for row in result.details["float"]] == [reason]
    assert any(f"left in float ({reason})" in note for note in result.notes)


def test_what_is_in_a_subgraph_or_a_function_stays_float_and_is_told() -> None:
    model = net(
        "a = MatMul(x, w) y = If(c) <then_branch = t () => (p) { p = MatMul(a, w) }, "
        "else_branch = e () => (q) { q = local.double(a) }>",
        "float[N, 8] x, bool[1] c",
        "float[N, 8] y",
        imports=', "local" : 1',
        functions='<domain: "local", opset_import: ["" : 17]>'
        " double (i) => (o) { o = MatMul(i, i) }",
        w=(8, 8),
    )
    result = quantize(model)
    model = result.model
    assert result.notes == ("2 nodes in subgraphs or functions left in float: 'p', 'o'",)
    assert "w" in model.graph.initializers  # the branch reads it


def test_nodes_are_excluded_by_name_by_pattern_and_by_operator() -> None:
    text = "a = MatMul(x, w) b = MatMul(a, w) c = MatMul(b, w) y = Gemm(c, w)"
    for patterns, left in (
        (("a",), ["a"]),
        (("[bc]",), ["b", "c"]),
        (("Gemm", "a"), ["a", "y"]),
        (("Conv", "*"), ["a", "b", "c", "y"]),
    ):
        model = net(text, "float[N, 8] x", "float[N, 8] y", w=(8, 8))
        result = quantize(model, exclude=patterns)
        model = result.model
        assert [row["node"] for row in result.details["float"]] == left
        assert result.modified == (len(left) < 4)


def test_an_exclusion_that_names_nothing_is_a_mistake() -> None:
    model = net("head = MatMul(x, w) y = Relu(head)", *VECTOR, w=(16, 8))
    with pytest.raises(GraphoptError, match="no node or operator is called 'haed'; did you mean"):
        quantize(model, exclude=("haed",))


def test_a_batch_norm_is_left_with_the_advice_to_fuse_it() -> None:
    ones = np.ones(4, np.float32)
    model = net(
        "c = Conv(x, w) y = BatchNormalization(c, s, o, m, v)",
        w=(4, 4, 3, 3),
        s=ones,
        o=ones,
        m=ones,
        v=ones,
    )
    result = quantize(model)
    model = result.model
    assert body(model) == "x^ = QDQ(x); c = Conv(x^, w^); y = BatchNormalization(c, s, o, m, v)"
    assert any("run fuse-affine first" in note for note in result.notes)


def test_names_that_are_taken_are_not_reused() -> None:
    model = net(
        "x_scale = Relu(x) w_quantized = MatMul(x_scale, w) y = MatMul(w_quantized, w)",
        "float[N, 8] x",
        "float[N, 8] y",
        w=(8, 8),
    )
    model = quantize(model).model
    values = [v.name for n in model.graph for v in n.outputs] + list(model.graph.initializers)
    assert len(values) == len(set(values))
    assert "w_quantized_1" in model.graph.initializers
    names = [node.name for node in model.graph]
    assert len(names) == len(set(names))
    assert {"x_scale", "w_quantized", "y"} <= set(names)


def test_a_second_run_changes_nothing() -> None:
    model = net("y = Conv(x, w)", w=(4, 4, 3, 3))
    model = quantize(model).model
    before = serialized(model)
    result = quantize(model)
    model = result.model
    assert not result.modified
    assert serialized(model) == before


def test_the_reasons_for_refusal_are_told_in_a_line() -> None:
    model = net("y = MatMul(x, w)", *VECTOR, w=(16, 8))
    with pytest.raises(GraphoptError, match="needs calibration data"):
        Quantize().run(model, PassContext())
    with pytest.raises(GraphoptError, match="does not support targets of the family 'abacus'"):
        quantization_rules("abacus")
    with pytest.raises(GraphoptError, match="the target 'sm75' does not compute in int8"):
        Quantize().run(model, context(model, target="sm75"))
    broken = net("y = MatMul(x, w)", *VECTOR, w=np.full((16, 8), np.nan, np.float32))
    with pytest.raises(GraphoptError, match="weight 'w': holds NaN or an infinite value"):
        quantize(broken)
    with pytest.raises(GraphoptError, match="tensor 'x': takes NaN on the calibration data"):
        quantize(model, {"x": np.full((2, 16), np.nan, np.float32)})


@pytest.mark.parametrize("opset", [11, 12])
def test_an_old_opset_is_raised_and_told(opset: int) -> None:
    model = net("m = MatMul(x, w) y = Softmax<axis=1>(m)", *VECTOR, opset=opset, w=(16, 8))
    result = quantize(model)
    assert default_opset(model) == opset  # it was not touched
    assert default_opset(result.model) == 13
    assert result.notes == (f"raised the opset from {opset} to 13, for its QuantizeLinear",)
    feed = data(model)
    assert decibels(runtime(model, feed)[0], runtime(result.model, feed)[0]) > 30


def test_a_raw_export_is_simplified_and_fused_first() -> None:
    ones = np.ones(4, np.float32)
    model = net(
        "w = Constant<value_floats=[" + ", ".join(f"{i / 10}" for i in range(16)) + "]>() "
        "v = Reshape(w, s) c = Conv(x, v) y = BatchNormalization(c, b, b, b, b)",
        b=ones,
        s=[4, 4, 1, 1],
    )
    result = quantize(model, canonicalize=True)
    assert [node.op_type for node in result.model.graph] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Conv",
    ]
    assert result.notes == ("simplified and fused it first: 4 -> 1 nodes",)
    feed = data(model)
    assert decibels(runtime(model, feed)[0], runtime(result.model, feed)[0]) > 35


def test_random_calibration_data_is_told() -> None:
    model = net("y = MatMul(x, w)", *VECTOR, w=(16, 8))
    calibration = open_samples("random{n=4}", input_specs(model))
    result = Quantize().run(model, PassContext(calibration=calibration))
    assert any("random noise (4 samples, seed 0)" in note for note in result.notes)


def test_only_so_many_samples_are_used() -> None:
    model = net("y = MatMul(x, w)", *VECTOR, w=(16, 8))
    feed = {"x": np.concatenate([np.ones((4, 16)), np.full((4, 16), 100)]).astype(np.float32)}
    model = quantize(model, feed, samples=4, method="minmax").model
    assert constant(model, "x_scale") == np.float32(1 / 127)
    with pytest.raises(GraphoptError, match="samples must be at least 1"):
        graphopt.parse("quantize{samples=0}")
    with pytest.raises(GraphoptError, match="percent is for method=percentile or auto, not mse"):
        graphopt.parse("quantize{percent=99}")


def test_the_details_tell_what_was_done_to_each_node_and_tensor() -> None:
    model = net("r = Relu(x) m = MaxPool<kernel_shape=[2,2]>(r) y = Conv(m, w)", w=(4, 4, 3, 3))
    result = quantize(model, method="minmax")
    model, details = result.model, result.details
    (node,) = details["quantized"]
    scale = constant(model, "w_scale")
    assert node == {
        "node": "y",
        "op_type": "Conv",
        "tensor": "r",
        "weight": "w",
        "axis": 0,
        "channels": 4,
        "weight_scale_min": float(scale.min()),
        "weight_scale_max": float(scale.max()),
    }
    (tensor,) = details["tensors"]
    assert (tensor["tensor"], tensor["low"], tensor["clipped"]) == ("r", 0, 0)
    assert tensor["scale"] == pytest.approx(tensor["high"] / 127)


def test_the_same_model_gives_the_same_bytes() -> None:
    text = "a = Conv(x, w, b) r = Relu(a) y = Conv(r, w)"
    results = set()
    for _ in range(2):
        model = net(text, w=(4, 4, 3, 3), b=(4,))
        model = quantize(model).model
        results.add(serialized(model))
    assert len(results) == 1
