"""Q/DQ that did not become integer kernels, and why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import engine_models as models
import numpy as np
import onnx
import pytest
from engine_models import Graph

from graphopt.emit.tensorrt import ComputeNode, EngineReport, batch_shapes, build_engine
from graphopt.emit.tensorrt.unfused import find_unfused
from graphopt.ir import load
from graphopt.report.engine import print_engine, print_kernels
from graphopt.targets import get_target

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"
)


Case = Callable[[Graph, str], str]


def data_only(g: Graph, x: str) -> str:
    return g.op("Conv", g.qdq(x), g.weight(16, 16, 1, 1), name="conv")


def weight_only(g: Graph, x: str) -> str:
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def behind_relu(g: Graph, x: str) -> str:
    x = g.op("Relu", g.qdq(x), name="relu")
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def vector_scale(g: Graph, x: str) -> str:
    scale, zero = g.constant(np.array([0.05], np.float32)), g.constant(np.zeros(1, np.int8))
    x = g.op("QuantizeLinear", x, scale, zero)
    x = g.op("DequantizeLinear", x, scale, zero)
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def channel_scales(g: Graph, x: str) -> str:
    scale = g.constant(np.linspace(0.01, 0.05, 16, dtype=np.float32))
    zero = g.constant(np.zeros(16, np.int8))
    x = g.op("QuantizeLinear", x, scale, zero, axis=1)
    x = g.op("DequantizeLinear", x, scale, zero, axis=1)
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def wrong_axis(g: Graph, x: str) -> str:
    return g.op("Conv", g.qdq(x), g.int8_weight(16, 16, 1, 1, axis=1), name="conv")


def behind(operator: str, *constants: object, first: bool = False, **attributes: object) -> Case:
    """A Conv on what `operator` makes of a quantized tensor, and of `constants`."""

    def make(g: Graph, x: str) -> str:
        more = [g.constant(np.array(each)) for each in constants]
        operands = [*more, g.qdq(x)] if first else [g.qdq(x), *more]
        x = g.op(operator, *operands, name="between", **attributes)
        return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")

    return make


def by_activation(g: Graph, x: str) -> str:
    x = g.op("Mul", g.op("Sigmoid", x), g.qdq(x), name="between")
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def chosen(g: Graph, x: str) -> str:
    zero = g.constant(np.array(0, np.float32))
    x = g.op("Where", g.op("Greater", x, zero), g.qdq(x), zero, name="between")
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def from_half(g: Graph, x: str) -> str:
    scale, zero = g.constant(np.array(0.05, np.float16)), g.constant(np.zeros((), np.int8))
    x = g.op("QuantizeLinear", g.op("Cast", x, to=10), scale, zero)
    x = g.op("Cast", g.op("DequantizeLinear", x, scale, zero), name="between", to=1)
    return g.op("Conv", x, g.int8_weight(16, 16, 1, 1, axis=0), name="conv")


def moved_weight(g: Graph, x: str) -> str:
    weight = g.op("Transpose", g.int8_weight(16, 16, 1, 1, axis=0), perm=[1, 0, 2, 3])
    return g.op("Conv", g.qdq(x), weight, name="conv")


def left_weight(g: Graph, x: str) -> str:
    return g.op("MatMul", g.int8_weight(8, 8, axis=1), g.qdq(x), name="conv")


def transposed(g: Graph, x: str) -> str:
    return g.op("ConvTranspose", g.qdq(x), g.int8_weight(16, 16, 1, 1, axis=1), name="conv")


CASES: list[tuple[Case, str]] = [
    (data_only, "only its data is quantized"),
    (weight_only, "only its weight is quantized"),
    (behind_relu, "'relu' [Relu] between 'dequantizelinear4' and it makes floats"),
    (behind("Add", np.float32(1)), "'between' [Add] between 'dequantizelinear5' and it makes"),
    (behind("Add", np.float32(1), first=True), "'between' [Add] between 'dequantizelinear5' and"),
    (behind("Sub", np.float32(1)), "'between' [Sub] between"),
    (behind("Clip", np.float32(0), np.float32(1)), "'between' [Clip] between"),
    (behind("Max", np.float32(0), first=True), "'between' [Max] between"),
    (behind("LeakyRelu"), "'between' [LeakyRelu] between"),
    (behind("Sigmoid"), "'between' [Sigmoid] between"),
    (
        behind("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        "'between' [AveragePool] between 'dequantizelinear4' and it makes floats; put the pair",
    ),
    (behind("Pad", np.array([0, 0, 0, 1, 0, 0, 0, -1])), "'between' [Pad] between"),
    (by_activation, "'between' [Mul] between"),
    (chosen, "'between' [Where] between"),
    (from_half, "'between' [Cast] between"),
    (moved_weight, "the axis of its scales with it; move it before"),
    (left_weight, "its left operand is a weight with a scale of shape [8]; make it a scalar"),
    (vector_scale, "the scale of its data has the shape [1]; make it a scalar"),
    (channel_scales, "the scale of its data has the shape [16]; make it a scalar"),
    (wrong_axis, "a scale for each index of axis 1; make it axis 0"),
    (transposed, "TensorRT has no int8 kernel for it that builds everywhere"),
]


def made(make: Case) -> onnx.ModelProto:
    g = Graph()
    return g.model(make(g, g.input("x", [1, 16, 8, 8])), [1, 16, 8, 8])


def built(model: onnx.ModelProto, folder: Path) -> EngineReport:
    path = models.save(model, folder / "model.onnx")
    shapes = batch_shapes(load(path))
    return build_engine(path, folder / "model.engine", target=get_target("sm86"), shapes=shapes)


@needs_rtx
@pytest.mark.parametrize(("make", "reason"), CASES)
def test_a_float_kernel_gets_its_reason(tmp_path: Path, make: Case, reason: str) -> None:
    report = built(made(make), tmp_path)
    (found,) = report.unfused
    assert (found.node, found.precision) == ("conv", "fp32")
    assert reason in found.reason


def test_reasons_need_no_builder(tmp_path: Path) -> None:
    for make, reason in CASES:
        model = load(models.save(made(make), tmp_path / "model.onnx"))
        (found,) = find_unfused(model, [ComputeNode("conv", "Conv", "fp16")], get_target("sm86"))
        assert reason in found.reason
        assert find_unfused(model, [ComputeNode("conv", "Conv", "int8")], get_target("sm86")) == ()
        assert find_unfused(model, [ComputeNode("conv", "Conv", None)], get_target("sm86")) == ()


def test_a_target_without_int8_is_the_reason(tmp_path: Path) -> None:
    model = load(models.save(models.int8_net(), tmp_path / "model.onnx"))
    nodes = [ComputeNode("stem", "Conv", "fp16"), ComputeNode("fc", "Gemm", "fp16")]
    found = find_unfused(model, nodes, get_target("sm75"))
    assert [node.node for node in found] == ["stem", "fc"]
    assert all("'sm75' does not compute in int8" in node.reason for node in found)
    # Placed by the rules: nothing to blame.
    assert all(
        node.reason == "the builder chose a float kernel, and no known rule says why"
        for node in find_unfused(model, nodes, get_target("sm86"))
    )


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_the_axis_of_a_gemm_follows_its_attribute(
    tmp_path: Path, transposed: int, axis: int
) -> None:
    g = Graph()
    weight = g.int8_weight(32, 32, axis=1 - axis)
    x = g.op("Gemm", g.qdq(g.input("x", [4, 32])), weight, name="fc", transB=transposed)
    model = load(models.save(g.model(x, [4, 32]), tmp_path / "model.onnx"))
    (found,) = find_unfused(model, [ComputeNode("fc", "Gemm", "fp32")], get_target("sm86"))
    assert f"axis {1 - axis}; make it axis {axis}" in found.reason


def test_weights_in_four_bits_and_float_models_are_as_meant(tmp_path: Path) -> None:
    model = load(models.save(models.float_net(), tmp_path / "model.onnx"))
    assert find_unfused(model, [ComputeNode("fc", "Gemm", "fp32")], get_target("sm86")) == ()
    g = Graph(opset=21)
    values = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, [32, 32], [1] * 1024)
    g.initializers.append(values)
    scale = g.constant(np.full((1, 32), 0.1, np.float32))
    weight = g.op("DequantizeLinear", "w", scale, axis=0, block_size=32)
    x = g.op("MatMul", g.input("x", [4, 32]), weight, name="product")
    model = load(models.save(g.model(x, [4, 32]), tmp_path / "model.onnx"))
    nodes = [ComputeNode("product", "MatMul", "fp32")]
    assert find_unfused(model, nodes, get_target("sm86")) == ()


@needs_rtx
def test_the_report_of_a_good_int8_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = built(models.int8_net(), tmp_path)
    assert report.unfused == ()
    assert set(report.macs_by_precision) == {"int8"}
    # One run with the optimal batch of 8; the stem has 16 channels of 9 taps on 16 x 16.
    by_node = {node.name: node.macs for node in report.compute_nodes or ()}
    assert by_node["stem"] == 8 * 16 * 9 * 16 * 16
    assert by_node["fc"] == 8 * 320
    assert report.kernels_by_kind["conv"] == 7
    assert report.kernels_by_kind["quantize"] >= 1
    assert sum(report.weight_bytes_by_type.values()) == report.weight_bytes
    assert report.weight_bytes_by_type["int8"] > 16 * 16 * 9 * 2
    assert report.activation_bytes is not None
    assert report.activation_bytes > 16 * 16 * 16
    print_engine(report)
    text = capsys.readouterr().out
    assert "100.0%" in text
    print_kernels(report)
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    kinds = [row[0].strip() for row in rows if row[0].strip()]
    assert kinds == [k.kind for k in report.kernels or () if k.kind != "control"]
    stem = next(row for row in rows if "stem" in row[5] and row[0].strip() == "conv")
    assert [cell.strip() for cell in stem[:4]] == ["conv", "int8", "int8", "int8"]
    assert "warning" not in text


@needs_rtx
@pytest.mark.parametrize(
    "make",
    [
        behind("Mul", np.float32(3)),
        behind("Mul", np.float32(3), first=True),
        behind("Div", np.float32(3)),
        behind("Pad", np.zeros(8, np.int64)),
        behind("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ],
)
def test_what_keeps_integers_is_not_blamed(tmp_path: Path, make: Case) -> None:
    report = built(made(make), tmp_path)
    assert report.unfused == ()
    assert report.compute_nodes_by_precision == {"int8": 1}


@needs_rtx
def test_a_rest_in_fp32_is_hinted_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rest(dtype: type) -> EngineReport:
        g = Graph(dtype)
        x = g.op("Conv", g.qdq(g.input("x", [1, 16, 8, 8])), g.int8_weight(16, 16, 1, 1, axis=0))
        return built(g.model(g.op("Softmax", x, name="soft"), [1, 16, 8, 8]), tmp_path)

    report = rest(np.float32)
    assert report.fp32_rest == ("soft",)
    print_engine(report)
    assert "hint: 'soft': fp32, as what is not quantized is; cast it" in capsys.readouterr().out
    assert rest(np.float16).fp32_rest == ()
    assert built(models.float_net(1), tmp_path).fp32_rest == ()


@needs_rtx
def test_the_report_of_a_bad_int8_engine_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_engine(built(made(wrong_axis), tmp_path))
    assert (
        "warning: 'conv' [Conv]: fp32 in spite of Q/DQ: its weight has a scale for each index of "
        "axis 1; make it axis 0"
    ) in capsys.readouterr().out
