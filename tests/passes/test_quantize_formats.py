"""The formats of `quantize`, by target."""

from __future__ import annotations

import platform
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from quantize_nets import body, constant, data, decibels, net, quantize, reference, runtime

import graphopt
from graphopt.emit.tensorrt import batch_shapes
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset

CONV = "Conv<pads=[1,1,1,1]>"
TEXT = f"a = {CONV}(x, w, b) r = Relu(a) y = {CONV}(r, v)"
W = (16, 4, 3, 3)
V = (16, 16, 3, 3)


def test_fp8_has_its_own_weights_scales_and_opset() -> None:
    model = net(TEXT, w=W, b=(16,), v=V)
    result = quantize(model, target="sm89", format="fp8")
    assert body(result.model) == (
        "x^ = QDQ(x); a = Conv(x^, w^, b); r = Relu(a); r^ = QDQ(r); y = Conv(r^, v^)"
    )
    assert default_opset(result.model) == 19
    assert result.rewrites["fp8-conv"] == 2
    stored = constant(result.model, "w_quantized")
    assert stored.dtype.name == "float8_e4m3fn"
    assert np.abs(stored.astype(np.float32)).max(axis=(1, 2, 3)).tolist() == [448] * 16
    feed = data(model)
    assert constant(result.model, "x_scale") == np.float32(np.abs(feed["x"]).max() / 448)
    (before,), (after,) = runtime(model, feed), reference(result.model, feed)
    assert decibels(before, after) > 25


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT-RTX is for x86_64 only")
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_fp8_is_computed_in_fp8(taps: int, tmp_path: Path) -> None:
    model = net(
        "a = Conv(x, w) r = Relu(a) y = Conv(r, v)",
        "float[N, 4, 32, 32] x",
        w=(16, 4, taps, taps),
        v=(16, 16, 1, 1),
    )
    target = graphopt.targets.get_target("sm89")
    result = graphopt.optimize(
        model, "quantize{format=fp8}", calibration="random{n=4}", target="sm89", verify="off"
    )
    graphopt.save(result.model, tmp_path / "m.onnx")
    shapes = batch_shapes(result.model)
    report = graphopt.build_engine(
        tmp_path / "m.onnx", tmp_path / "e", target=target, shapes=shapes
    )
    expected = {"fp8": 2} if taps < 7 else {"fp8": 1, "fp32": 1}
    assert report.compute_nodes_by_precision == expected
    assert result.model.graph.num_nodes() == (9 if taps < 7 else 6)  # the placement says so too


def test_int16_data_costs_next_to_nothing() -> None:
    model = net(TEXT, w=W, b=(16,), v=V)
    feed = data(model)
    (before,) = runtime(model, feed)
    result = quantize(model, target="onnxruntime-cpu", format="int16", feed=feed)
    assert default_opset(result.model) == 21
    assert constant(result.model, "x_zero_point").dtype == np.int16
    assert constant(result.model, "w_quantized").dtype == np.int8
    (after,) = runtime(result.model, feed)
    eight = quantize(model, target="onnxruntime-cpu", format="uint8", feed=feed)
    assert decibels(before, after) > decibels(before, runtime(eight.model, feed)[0]) + 1


@pytest.mark.parametrize(
    ("target", "format", "reason"),
    [
        ("sm86", "uint8", "uint8 is not for .*'tensorrt': TensorRT reads uint8 as int8"),
        ("sm86", "int16", "int16 is not for .*'tensorrt': TensorRT's parser refuses int16"),
        ("sm86", "fp8", "the target 'sm86' does not compute in fp8"),
        ("generic", "fp8", "the target 'generic' does not compute in fp8"),
        ("sm75", None, "the target 'sm75' does not compute in int8"),
        ("onnxruntime-cpu", "fp8", "garble fp8"),
    ],
)
def test_what_the_target_does_not_compute_is_refused(
    target: str, format: str | None, reason: str
) -> None:
    with pytest.raises(GraphoptError, match=reason):
        quantize(net(TEXT, w=W, b=(16,), v=V), target=target, format=format)


def test_each_target_has_its_own_default() -> None:
    model = net(f"c = {CONV}(x, w) y = Tanh(c)", w=W)
    types = {
        target: constant(quantize(model, target=target).model, "x_zero_point").dtype.name
        for target in ("generic", "sm86", "onnxruntime-cpu")
    }
    assert types == {"generic": "int8", "sm86": "int8", "onnxruntime-cpu": "uint8"}


@pytest.mark.parametrize(("kind", "name"), [("bfloat16", "bfloat16"), ("double", "double")])
def test_other_float_types_stay_float_and_are_told(kind: str, name: str) -> None:
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.float64
    model = net(
        "y = MatMul(x, w)", f"{kind}[N, 16] x", f"{kind}[N, 8] y", w=np.ones((16, 8), dtype)
    )
    result = quantize(model)
    assert not result.modified
    assert result.details["float"][0]["reason"] == f"its weight is {name}, not float32 or float16"
