"""Models that are quantized already, in part or in full."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from models import serialized
from quantize_nets import body, constant, data, decibels, net, quantize, runtime

from graphopt.errors import GraphoptError

CONV = "Conv<pads=[1,1,1,1]>"
W = (4, 4, 3, 3)
SCALE = np.array(0.05, np.float32)
INT8, UINT8 = np.array(0, np.int8), np.array(0, np.uint8)
PAIR = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"


def given(text: str, *, zero: Any = INT8, **weights: Any) -> ir.Model:
    return net(f"{PAIR} {text}", s=SCALE, z=zero, **weights)


def lines(model: ir.Model) -> list[str]:
    return [
        f"{node.op_type}({', '.join(str(v.name) for v in node.inputs if v is not None)})"
        for node in model.graph
    ]


def test_a_pair_that_is_there_is_kept_and_read_by_all_who_want_it() -> None:
    model = given(f"a = {CONV}(d, w) b = {CONV}(x, v) y = Add(a, b)", w=W, v=W)
    result = quantize(model)
    assert "tensors" not in result.details or not result.details["tensors"]
    assert "Conv(d, w_dequantized)" in lines(result.model)
    assert "Conv(d, v_dequantized)" in lines(result.model)
    assert constant(result.model, "s") == SCALE
    assert sum("QuantizeLinear(x" in line for line in lines(result.model)) == 1


def test_a_half_quantized_layer_is_completed() -> None:
    model = given(f"a = {CONV}(d, w) r = Relu(a) y = {CONV}(r, v)", w=W, v=W)
    result = quantize(model)
    assert [row["tensor"] for row in result.details["tensors"]] == ["r"]
    feed = data(model)
    assert decibels(runtime(model, feed)[0], runtime(result.model, feed)[0]) > 25


def test_a_pair_is_not_put_behind_what_moves_quantized_values() -> None:
    model = given(f"m = MaxPool<kernel_shape=[2,2]>(d) y = {CONV}(m, w)", w=W)
    assert quantize(model).details["tensors"] == []


def test_a_weight_that_is_quantized_stays_to_the_bit() -> None:
    weight = np.random.default_rng(0).integers(-127, 127, W).astype(np.int8)
    scales = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    model = net(
        f"k = DequantizeLinear<axis=0>(w, t, p) y = {CONV}(x, k)",
        w=weight,
        t=scales,
        p=np.zeros(4, np.int8),
    )
    result = quantize(model)
    assert lines(result.model)[-1] == "Conv(x_dequantized, k)"
    np.testing.assert_array_equal(constant(result.model, "w"), weight)
    np.testing.assert_array_equal(constant(result.model, "t"), scales)


@pytest.mark.parametrize(
    ("axis", "zero", "reason"),
    [
        (1, np.zeros(4, np.int8), "along another axis"),
        (0, np.ones(4, np.uint8), None),
    ],
)
def test_a_weight_in_another_form_stays_and_its_layer_too(
    axis: int, zero: np.ndarray, reason: str | None
) -> None:
    model = net(
        f"k = DequantizeLinear<axis={axis}>(w, t, p) y = {CONV}(x, k)",
        w=np.ones(W).astype(zero.dtype),
        t=np.ones(4, np.float32),
        p=zero,
    )
    if reason is None:
        with pytest.raises(GraphoptError, match="'k' does not fit: it is uint8"):
            quantize(model)
        return
    result = quantize(model)
    assert not result.modified
    assert result.details["float"][0]["reason"].endswith(reason)


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (f"y = {CONV}(d, w)", {"zero": UINT8}, "it is uint8, which the target does not take"),
        (f"y = {CONV}(d, w)", {"zero": np.array(3, np.int8)}, "its zero point is not 0"),
        (
            "i, t, p = DynamicQuantizeLinear(x) e = DequantizeLinear(i, t, p) y = Add(d, e)",
            {},
            "DynamicQuantizeLinear 'i' does not fit: it computes in integers by itself",
        ),
        (
            f"c = DequantizeLinear<axis=0>(b, t) y = {CONV}(d, w, c)",
            {"b": np.ones(4, np.int32), "t": np.ones(4, np.float32)},
            "DequantizeLinear 'c' does not fit: it is int32",
        ),
    ],
)
def test_what_the_target_cannot_take_is_refused(
    text: str, options: dict[str, Any], reason: str
) -> None:
    model = given(text, w=W, **options)
    with pytest.raises(GraphoptError, match=f"already quantized.*{reason}.*from the float model"):
        quantize(model)


def test_a_zero_point_that_is_left_out_means_uint8() -> None:
    model = net(
        f"q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = {CONV}(d, w)", s=SCALE, w=W
    )
    with pytest.raises(GraphoptError, match=r"it is uint8 .the zero point is left out"):
        quantize(model)


def test_the_cpu_takes_zero_points_and_completes_the_group() -> None:
    model = given(f"c = {CONV}(d, w, b) y = Tanh(c)", zero=np.array(128, np.uint8), w=W, b=(4,))
    result = quantize(model, target="onnxruntime-cpu")
    assert [row["tensor"] for row in result.details["tensors"]] == ["c"]
    steps = SCALE * constant(result.model, "w_scale")
    np.testing.assert_array_equal(constant(result.model, "b_scale"), steps)


@pytest.mark.parametrize(("scale", "kind"), [(0.1, np.int32), (1e-12, np.float32)])
def test_the_bias_of_a_given_weight_is_int32_if_it_fits(scale: float, kind: type) -> None:
    model = given(
        f"k = DequantizeLinear<axis=0>(w, t, p) c = {CONV}(d, k, b) y = Tanh(c)",
        zero=np.array(128, np.uint8),
        w=np.ones(W, np.int8),
        t=np.full(4, scale, np.float32),
        p=np.zeros(4, np.int8),
        b=(4,),
    )
    result = quantize(model, target="onnxruntime-cpu")
    names = result.model.graph.initializers
    stored = "b_quantized" if "b_quantized" in names else "b"
    assert constant(result.model, stored).dtype == kind
    feed = data(model)
    assert decibels(runtime(model, feed)[0], runtime(result.model, feed)[0]) > 25


def test_a_join_of_what_is_given_and_what_is_not_is_quantized_behind() -> None:
    """Both cannot have one scale, for that of the first is not to be touched."""
    model = given(f"e = Exp(x) j = Concat<axis=1>(d, e) y = {CONV}(j, w)", w=(4, 8, 3, 3))
    assert [row["tensor"] for row in quantize(model).details["tensors"]] == ["j"]


@pytest.mark.parametrize("target", ["generic", "onnxruntime-cpu"])
def test_a_model_that_is_quantized_in_full_stays_as_it_is(target: str) -> None:
    text = f"a = {CONV}(x, w) r = Relu(a) c = {CONV}(r, v) s = Add(c, r) t = Tanh(s) y = Exp(t)"
    once = quantize(net(text, w=W, v=W), target=target).model
    before = serialized(once)
    result = quantize(once, target=target)
    assert not result.modified
    assert any("quantized already" in note for note in result.notes)
    assert serialized(result.model) == before


def test_an_excluded_layer_is_completed_later() -> None:
    model = net(f"a = {CONV}(x, w) r = Relu(a) y = {CONV}(r, v)", w=W, v=W)
    whole = quantize(model)
    part = quantize(model, exclude=("y",))
    completed = quantize(part.model)
    assert body(completed.model) == body(whole.model)
    for name in ("x_scale", "r_scale", "w_scale", "v_scale"):
        np.testing.assert_allclose(
            constant(completed.model, name), constant(whole.model, name), rtol=0.1
        )
