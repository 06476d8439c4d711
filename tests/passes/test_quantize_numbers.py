"""The numbers that `quantize` writes, against numpy, ONNX Runtime and the reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import body, constant, data, decibels, net, quantize, reference, runtime

from graphopt.ir import default_opset, measure
from graphopt.quantization import DEAD_SCALE, stored_scale
from graphopt_passes.quantize.weights import quantize_weight

VECTOR = ("float[N, 16] x", "float[N, 8] y")
SEQUENCE = ("float[N, 5, 16] x", "float[N, 5, 8] y")
IMAGE = ("float[N, 4, 8, 8] x", "float[N, C, H, W] y")

# By name: the body, the interface, the weight's shape and its channel axis.
PRODUCTS = {
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, w, b)", IMAGE, (6, 4, 3, 3), 0),
    "strided conv": ("y = Conv<strides=[2,2], dilations=[2,2]>(x, w, b)", IMAGE, (6, 4, 3, 3), 0),
    "grouped conv": ("y = Conv<group=2>(x, w, b)", IMAGE, (6, 2, 3, 3), 0),
    "depthwise conv": ("y = Conv<group=4>(x, w, b)", IMAGE, (4, 1, 3, 3), 0),
    "conv 1d": ("y = Conv(x, w, b)", ("float[N, 16, 9] x", "float[N, C, L] y"), (6, 16, 3), 0),
    "gemm": ("y = Gemm(x, w, b)", VECTOR, (16, 8), 1),
    "gemm transB": ("y = Gemm<transB=1, alpha=0.5>(x, w, b)", VECTOR, (8, 16), 0),
    "matmul": ("m = MatMul(x, w) y = Add(m, b)", SEQUENCE, (16, 8), 1),
}
PRODUCT = pytest.mark.parametrize("product", PRODUCTS)


def build(product: str) -> tuple[ir.Model, int]:
    text, (inputs, outputs), shape, axis = PRODUCTS[product]
    channels = shape[axis]
    bias = (channels,) if "Conv" in text else (8,)
    # The reference evaluator knows DequantizeLinear from opset 19.
    return net(text, inputs, outputs, opset=19, w=shape, b=bias), axis


@PRODUCT
def test_every_product_is_computed_from_rounded_data_and_weights(product: str) -> None:
    model, axis = build(product)
    before = model.clone()
    feed = data(model)
    model = quantize(model, feed).model
    dequantize = next(n for n in model.graph if n.name == "w_DequantizeLinear")
    assert dequantize.attributes["axis"].as_int() == axis
    # The same float net, fed with the rounded data and holding the rounded weight.
    scale = constant(model, "x_scale").astype(np.float64)
    rounded = np.clip(np.rint(feed["x"] / scale), -128, 127) * scale
    shape = [-1 if i == axis else 1 for i in range(constant(model, "w_quantized").ndim)]
    weight = constant(model, "w_quantized") * constant(model, "w_scale").reshape(shape)
    before.graph.initializers["w"].const_value = ir.tensor(weight.astype(np.float32), name="w")
    (expected,) = runtime(before, {"x": rounded.astype(np.float32)})
    (actual,) = runtime(model, feed)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(reference(model, feed)[0], actual, rtol=0, atol=1e-5)


@PRODUCT
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_little_is_lost(product: str, method: str) -> None:
    model, _ = build(product)
    feed = data(model)
    (before,) = runtime(model, feed)
    model = quantize(model, feed, method=method).model
    assert decibels(before, runtime(model, feed)[0]) > 35


@PRODUCT
def test_what_is_written_is_what_tensorrt_reads(product: str) -> None:
    model, axis = build(product)
    model = quantize(model).model
    channels = constant(model, "w_quantized").shape[axis]
    for name in ("x_scale", "x_zero_point"):
        assert constant(model, name).shape == ()
    for name in ("w_scale", "w_zero_point"):
        assert constant(model, name).shape == (channels,)
    for name in ("x_zero_point", "w_zero_point", "w_quantized"):
        assert constant(model, name).dtype == np.int8
    for name in ("x_zero_point", "w_zero_point"):
        assert not constant(model, name).any()
    for name in ("x_scale", "w_scale"):
        assert (constant(model, name) > 0).all()
        assert constant(model, name).dtype == np.float32
    assert "w" not in model.graph.initializers
    pairs = [n for n in model.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(node.domain == "" and len(node.inputs) == 3 for node in pairs)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_are_rounded_as_quantize_linear_rounds(axis: int, dtype: type) -> None:
    weight = np.random.default_rng(1).standard_normal((64, 48)).astype(dtype)
    quantized = quantize_weight(weight, axis, (-127, 127))
    assert quantized.scale.dtype == dtype
    scale = quantized.scale.astype(np.float32)
    zero = np.zeros(scale.shape, np.int8)
    text = f"y = QuantizeLinear<axis={axis}>(x, s, z)"
    rounding = net(text, "float[64, 48] x", "int8[64, 48] y", opset=19, s=scale, z=zero)
    (expected,) = reference(rounding, {"x": weight.astype(np.float32)})
    np.testing.assert_array_equal(quantized.data, expected)
    assert np.abs(quantized.data.astype(int)).max(axis=1 - axis).tolist() == [127] * len(scale)


def test_halves_are_rounded_to_even() -> None:
    weight = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    assert quantize_weight(weight, 0, (-127, 127)).data.tolist() == [[127, 0, 2, 2, 0, -2]]


def test_a_dead_channel_and_a_dead_tensor_get_a_small_positive_scale() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    weight[1] = 0
    model = net("z = Mul(x, none) y = Conv(z, w)", w=weight, none=np.array(0, np.float32))
    result = quantize(model)
    model = result.model
    assert constant(model, "w_scale")[1] == DEAD_SCALE == constant(model, "z_scale")
    assert not constant(model, "w_quantized")[1].any()
    assert "always zero on the calibration data: 'z'" in result.notes
    assert not runtime(model, data(model))[0].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stored_scales_are_positive_whatever_the_type(dtype: type) -> None:
    scales = stored_scale(np.array([0.0, 1e-60, 1e-9, 1.0]), np.dtype(dtype))
    assert scales.dtype == dtype
    assert (scales > 0).all()


def test_the_file_shrinks_to_about_a_quarter() -> None:
    model = net("y = MatMul(x, w)", "float[N, 256] x", "float[N, 256] y", w=(256, 256))
    before = measure(model).weight_bytes
    model = quantize(model).model
    assert measure(model).weight_bytes < 0.28 * before


def test_a_weight_that_two_nodes_use_alike_is_stored_once() -> None:
    model = net("a = MatMul(x, w) y = MatMul(a, w)", "float[N, 8] x", "float[N, 8] y", w=(8, 8))
    model = quantize(model).model
    assert body(model) == "x^ = QDQ(x); a = MatMul(x^, w^); a^ = QDQ(a); y = MatMul(a^, w^)"
    assert [n for n in model.graph.initializers if n.endswith("_quantized")] == ["w_quantized"]


def test_a_weight_used_along_two_axes_is_stored_twice() -> None:
    model = net(
        "a = Gemm(x, w) y = Gemm<transB=1>(a, w)", "float[N, 8] x", "float[N, 8] y", w=(8, 8)
    )
    model = quantize(model).model
    axes = [n.attributes["axis"].as_int() for n in model.graph if n.name.startswith("w_Deq")]
    assert sorted(axes) == [0, 1]
    assert "w" not in model.graph.initializers


def test_a_weight_that_a_float_node_uses_too_stays_beside_the_integers() -> None:
    model = net("a = MatMul(x, w) y = Add(a, w)", "float[8, 8] x", "float[8, 8] y", w=(8, 8))
    model = quantize(model).model
    assert body(model) == "x^ = QDQ(x); a = MatMul(x^, w^); y = Add(a, w)"


def test_the_weight_of_a_constant_node_is_quantized_and_the_node_goes() -> None:
    values = ", ".join(str(i / 10 - 0.8) for i in range(16))
    model = net(
        f"w = Constant<value = float[4, 4] {{{values}}}>() y = MatMul(x, w)",
        "float[N, 4] x",
        "float[N, 4] y",
    )
    model = quantize(model).model
    assert body(model) == "x^ = QDQ(x); y = MatMul(x^, w^)"


HALF = ("float16[N, 16] x", "float16[N, 8] y")


def half(opset: int) -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float16)
    return net("m = MatMul(x, w) y = Relu(m)", *HALF, opset=opset, w=weight)


def test_a_float16_model_gets_float16_scales() -> None:
    model = half(19)
    feed = data(model)
    (before,) = runtime(model, feed)
    model = quantize(model, feed).model
    assert constant(model, "x_scale").dtype == constant(model, "w_scale").dtype == np.float16
    (after,) = runtime(model, feed)
    assert after.dtype == np.float16
    assert decibels(before, after) > 35


def test_float16_gets_an_opset_whose_quantize_linear_takes_it() -> None:
    result = quantize(half(18))
    assert default_opset(result.model) == 19
    assert result.notes == ("raised the opset from 18 to 19, for its QuantizeLinear",)
