"""What `quantize` writes for ONNX Runtime on a CPU: groups that become integer kernels there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import Array, body, constant, data, decibels, kernels, net, quantize, runtime

from graphopt.errors import GraphoptError
from graphopt.ir import default_opset
from graphopt.pipeline.base import PassResult
from graphopt_passes.quantize.weights import LARGEST_BIAS

W = (4, 4, 3, 3)
CONV = "Conv<pads=[1,1,1,1]>"
INTEGER = ("QLinear", "QGemm", "MatMulIntegerToFloat", "NhwcMaxPool")


def cpu(model: ir.Model, **options: Any) -> PassResult:
    return quantize(model, target="onnxruntime-cpu", **options)


def both(before: ir.Model, after: ir.Model) -> tuple[Array, Array, Array]:
    """The first output of the float model, and of the other with optimizations off and on."""
    feed = data(before)
    (expected, *_), (off, *_) = runtime(before, feed), runtime(after, feed)
    on, *_ = runtime(after, feed, optimize=True)
    return expected, off, on


def floats(model: ir.Model, folder: Path) -> list[str]:
    """What ONNX Runtime computes in float between the first and the last quantized tensor."""
    return [
        operator
        for operator in kernels(model, folder)
        if not operator.startswith(INTEGER)
        and operator not in ("QuantizeLinear", "DequantizeLinear", "Transpose")
    ]


def test_data_weight_and_output_are_quantized_and_the_bias_is_int32() -> None:
    model = net(f"c = {CONV}(x, w, b) y = Tanh(c)", w=W, b=(4,))
    result = cpu(model)
    assert body(result.model) == "x^ = QDQ(x); c = Conv(x^, w^, b^); c^ = QDQ(c); y = Tanh(c^)"
    model = result.model
    assert constant(model, "x_zero_point").dtype == np.uint8
    assert constant(model, "w_quantized").dtype == np.int8
    assert constant(model, "b_quantized").dtype == np.int32
    steps = constant(model, "x_scale") * constant(model, "w_scale")
    np.testing.assert_array_equal(constant(model, "b_scale"), steps)


def test_zero_is_a_number_of_every_grid_and_what_is_never_negative_begins_there() -> None:
    model = net(f"r = Relu(x) c = {CONV}(r, w) y = Tanh(c)", w=W)
    model = cpu(model, method="minmax").model
    assert constant(model, "r_zero_point") == 0
    zero = int(constant(model, "c_zero_point"))
    assert 100 < zero < 156


@pytest.mark.parametrize("activation", ["Relu(c)", "Clip(c, lo, hi)"])
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_clamp_goes_into_the_kernel(activation: str, method: str, tmp_path: Path) -> None:
    bounds = {"lo": np.array(0, np.float32), "hi": np.array(0.7, np.float32)}
    model = net(
        f"c = {CONV}(x, w, b) r = {activation} d = {CONV}(r, u) y = Tanh(d)",
        w=W,
        b=(4,),
        u=W,
        **bounds if "Clip" in activation else {},
    )
    result = cpu(model, method=method)
    assert "c^" not in body(result.model)
    assert floats(result.model, tmp_path) == ["Tanh"]
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 25
    assert np.abs(on - off).max() < 0.02  # a step of the output


def test_a_clip_that_does_not_begin_at_zero_stays_behind_the_pair() -> None:
    limits = {"lo": np.array(-0.5, np.float32), "hi": np.array(0.7, np.float32)}
    model = net(f"c = {CONV}(x, w) r = Clip(c, lo, hi) y = Tanh(r)", w=W, **limits)
    assert body(cpu(model).model).endswith("c^ = QDQ(c); r = Clip(c^, lo, hi); y = Tanh(r)")


NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "a residual block": (
        f"r = Relu(x) a = {CONV}(r, w, b) p = Relu(a) c = {CONV}(p, v) s = Add(c, r) q = Relu(s)"
        f" d = {CONV}(q, u) y = Tanh(d)",
        {"w": W, "v": W, "u": W, "b": (4,)},
    ),
    "SiLU": (
        f"c = {CONV}(x, w) s = Sigmoid(c) m = Mul(c, s) d = {CONV}(m, u) y = Tanh(d)",
        {"w": W, "u": W},
    ),
    "pools": (
        f"c = {CONV}(x, w) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)"
        f" d = {CONV}(m, u) a = AveragePool<kernel_shape=[2,2]>(d) e = {CONV}(a, v) y = Tanh(e)",
        {"w": W, "u": W, "v": W},
    ),
    "a Concat": (
        f"a = {CONV}(x, w) b = {CONV}(x, v) j = Concat<axis=1>(a, b) d = {CONV}(j, u) y = Tanh(d)",
        {"w": W, "v": W, "u": (4, 8, 3, 3)},
    ),
    "LeakyRelu": (
        f"c = {CONV}(x, w) r = LeakyRelu<alpha=0.1>(c) d = {CONV}(r, u) y = Tanh(d)",
        {"w": W, "u": W},
    ),
    "HardSwish": (
        f"c = {CONV}(x, w) h = HardSwish(c) d = {CONV}(h, u) y = Tanh(d)",
        {"w": W, "u": W},
    ),
    "squeeze and excite": (
        f"c = {CONV}(x, w) p = Relu(c) g = GlobalAveragePool(p) e = Conv(g, k) f = Relu(e)"
        f" h = Conv(f, k, b) s = HardSigmoid<alpha=0.2, beta=0.5>(h) m = Mul(p, s)"
        f" d = {CONV}(m, u) y = Tanh(d)",
        {"w": W, "k": (4, 4, 1, 1), "b": (4,), "u": W},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_all_between_two_layers_is_computed_in_integers(name: str, tmp_path: Path) -> None:
    text, weights = NETS[name]
    model = net(text, **weights)
    result = cpu(model)
    assert floats(result.model, tmp_path) == ["Tanh"]
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 20
    assert decibels(off, on) > decibels(expected, off)


def test_hard_sigmoid_is_a_sum_that_is_clipped_and_read_with_another_scale() -> None:
    model = net(f"c = {CONV}(x, w) s = HardSigmoid(c) d = {CONV}(s, u) y = Tanh(d)", w=W, u=W)
    result = cpu(model)
    assert "s_sum = Add(c^, s_shift^); s_clipped = Clip(s_sum, s_least, s_greatest)" in body(
        result.model
    ).replace("s_shift)", "s_shift^)")
    scale, wide = constant(result.model, "s_scale"), constant(result.model, "s_sum_scale")
    assert float(scale) == pytest.approx(1 / 255)
    assert float(wide) == pytest.approx(5 / 255)  # alpha is 0.2
    expected, off, _ = both(model, result.model)
    assert decibels(expected, off) > 20


def test_a_hard_sigmoid_that_falls_stays_float() -> None:
    model = net(
        f"c = {CONV}(x, w) s = HardSigmoid<alpha=-0.2>(c) d = {CONV}(s, u) y = Tanh(d)", w=W, u=W
    )
    assert "s = HardSigmoid(c^); s^ = QDQ(s)" in body(cpu(model).model)


def test_an_addition_with_a_float_input_stays_float() -> None:
    model = net(f"c = {CONV}(x, w) t = Tanh(x) s = Add(c, t) y = Tanh(s)", w=W)
    assert body(cpu(model).model).endswith("s = Add(c^, t); y = Tanh(s)")


def test_a_mover_has_the_same_scale_on_both_sides() -> None:
    model = net(
        f"c = {CONV}(x, w) m = MaxPool<kernel_shape=[2,2]>(c) y = Conv(m, u) z = Tanh(y)",
        outputs="float[N, C, H, W] z",
        w=W,
        u=W,
    )
    model = cpu(model).model
    assert constant(model, "c_scale") == constant(model, "m_scale")
    assert constant(model, "c_zero_point") == constant(model, "m_zero_point")
    assert "c^ = QDQ(c); m = MaxPool(c^); m^ = QDQ(m); y = Conv(m^, u^)" in body(model)


def test_a_conv_that_gives_an_output_stays_float_and_is_told() -> None:
    result = cpu(net(f"y = {CONV}(x, w)", w=W))
    assert not result.modified
    assert "it gives an output of the model, which stays float" in result.notes[0]


@pytest.mark.parametrize(
    ("target", "notes"),
    [("sm86", ()), ("onnxruntime-cpu", ("simplified and fused it first: 2 -> 1 nodes",))],
)
def test_what_is_done_to_quantize_is_not_told_where_nothing_is(
    target: str, notes: tuple[str, ...]
) -> None:
    """The older opset stays, and on a GPU the model as it was; on a CPU it is simplified."""
    model = net("i = Identity(x) y = Sigmoid(i)", opset=11)
    result = quantize(model, target=target, canonicalize=True)
    assert default_opset(result.model) == 11
    assert result.notes == notes
    assert result.modified == bool(notes)
    assert len(result.model.graph) == (1 if notes else 2)


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        ("y = Gemm<alpha=0.5>(x, w)", {"w": (16, 8)}, "its alpha is not 1"),
        ("y = Gemm(x, w, b)", {"w": (16, 8), "b": (4, 8)}, "its bias differs from row to row"),
        ("b = Tanh(k) y = Gemm(x, w, b)", {"w": (16, 8), "k": (8,)}, "its bias is computed"),
    ],
)
def test_a_gemm_without_an_integer_kernel_stays_float(
    text: str, shapes: dict[str, Any], reason: str
) -> None:
    result = cpu(net(text, "float[4, 16] x", "float[4, 8] y", **shapes))
    assert [row["reason"] for row in result.details["float"]] == [reason]


@pytest.mark.parametrize("bias", [(8,), (1, 8), (1,)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_gives_floats_and_has_its_bias_in_int32(
    bias: tuple[int, ...], transposed: int, tmp_path: Path
) -> None:
    shape = (8, 16) if transposed else (16, 8)
    model = net(
        f"y = Gemm<transB={transposed}>(x, w, b)",
        "float[N, 16] x",
        "float[N, 8] y",
        w=shape,
        b=bias,
    )
    result = cpu(model)
    assert kernels(result.model, tmp_path) == ["QuantizeLinear", "QGemm"]
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 35
    np.testing.assert_allclose(on, off, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "kernel"), [("N, 5", "MatMulIntegerToFloat"), ("8, 5", "QGemm"), ("8", "QGemm")]
)
@pytest.mark.parametrize("addition", ["Add(m, b)", "Add(b, m)"])
def test_a_matmul_and_its_bias_give_floats(
    inputs: str, kernel: str, addition: str, tmp_path: Path
) -> None:
    """Where it knows all shapes, ONNX Runtime makes a Gemm of the two."""
    model = net(
        f"m = MatMul(x, w) y = {addition}",
        f"float[{inputs}, 16] x",
        f"float[{inputs}, 8] y",
        w=(16, 8),
        b=(8,),
    )
    result = cpu(model)
    assert kernel in kernels(result.model, tmp_path)
    assert constant(result.model, "b_quantized").dtype == np.int32
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 35
    np.testing.assert_allclose(on, off, atol=1e-5)


def test_a_channel_of_next_to_nothing_keeps_its_bias(tmp_path: Path) -> None:
    """Its scale would make the bias exceed int32."""
    weight = np.random.default_rng(0).standard_normal(W).astype(np.float32)
    weight[1] *= 1e-12
    bias = np.array([0.1, 5, -3, 0], np.float32)
    model = net(f"c = {CONV}(x, w, b) y = Tanh(c)", w=weight, b=bias)
    result = cpu(model)
    stored = constant(result.model, "b_quantized").astype(np.int64)
    assert np.abs(stored).max() <= LARGEST_BIAS
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 25
    assert decibels(expected, on) > 25


def test_reduced_weights_have_seven_bits() -> None:
    model = net(f"c = {CONV}(x, w) y = Tanh(c)", w=W)
    stored = constant(cpu(model, reduce_range=True).model, "w_quantized").astype(int)
    assert np.abs(stored).max(axis=(1, 2, 3)).tolist() == [63] * 4


def test_float16_stays_float() -> None:
    weight = np.ones((16, 8), np.float16)
    model = net("y = MatMul(x, w)", "float16[N, 16] x", "float16[N, 8] y", opset=19, w=weight)
    (row,) = cpu(model).details["float"]
    assert row["reason"] == "its weight is float16, not float32"


def test_int8_data_has_a_zero_point_too() -> None:
    """ONNX Runtime turns most of it into uint8, and computes the rest in float."""
    text, weights = NETS["a residual block"]
    model = net(text, **weights)
    result = cpu(model, format="int8")
    assert constant(result.model, "r_zero_point") == -128
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 20
    assert decibels(off, on) > decibels(expected, off)


def test_a_second_run_changes_nothing() -> None:
    for name in ("a residual block", "pools", "squeeze and excite"):
        text, weights = NETS[name]
        once = cpu(net(text, **weights)).model
        assert not cpu(once).modified, name


def test_fp8_is_refused_with_the_reason() -> None:
    with pytest.raises(GraphoptError, match=r"fp8 is not for .*'onnxruntime-cpu': .* garble fp8"):
        cpu(net(f"y = {CONV}(x, w)", w=W), format="fp8")


GELU = (
    "c = Conv(x, w) s = Div(c, root) e = Erf(s) a = Add(e, one) p = Mul(c, a) h = Mul(p, half) "
    "y = Conv(h, v)"
)


def spelled_gelu(opset: int = 17) -> ir.Model:
    numbers = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    constants = {name: np.array(number, np.float32) for name, number in numbers.items()}
    return net(GELU, opset=opset, w=(16, 4, 1, 1), v=(4, 16, 1, 1), **constants)


def test_a_gelu_behind_a_conv_is_one_operator() -> None:
    """Spelled out, ONNX Runtime dequantizes for each of its readers, and fuses nothing."""
    model = spelled_gelu()
    result = cpu(model, canonicalize=True)
    assert [node.op_type for node in result.model.graph].count("Gelu") == 1
    assert not any(node.op_type == "Erf" for node in result.model.graph)
    assert result.model.opset_imports[""] == 20
    assert "1 x Gelu in one operator, of opset 20" in result.notes
    expected, off, on = both(model, result.model)
    assert decibels(expected, off) > 30
    assert decibels(expected, on) > 30


@pytest.mark.parametrize("opset", [17, 20])
def test_what_is_nearly_a_gelu_keeps_its_opset(opset: int) -> None:
    model = net(
        GELU,
        opset=opset,
        w=(16, 4, 1, 1),
        v=(4, 16, 1, 1),
        root=np.array(1.4, np.float32),
        one=np.array(1, np.float32),
        half=np.array(0.5, np.float32),
    )
    result = cpu(model, canonicalize=True)
    assert result.model.opset_imports[""] == opset
    assert not any("Gelu" in note for note in result.notes)


def test_notes_are_on_what_was_done() -> None:
    """Nothing is quantized, so no opset is raised for that."""
    model = net("c = Conv(x, w) y = Identity(c)", opset=11, w=W)
    result = cpu(model, canonicalize=True, exclude=("c",))
    assert result.modified
    assert result.model.opset_imports[""] == 11
    assert result.notes[0].startswith("simplified and fused it first: 2 -> 1 nodes")
    assert not any("opset" in note for note in result.notes)
    result = cpu(net("y = Relu(x)", opset=11), canonicalize=True)
    assert (result.modified, result.notes) == (False, ())


def test_a_gelu_of_a_model_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise GraphoptError("no conversion")

    monkeypatch.setattr("graphopt_passes.quantize.canonical.set_opset", refuse)
    result = cpu(spelled_gelu(), canonicalize=True)
    assert any(node.op_type == "Erf" for node in result.model.graph)
    note = "Gelu stays spelled out, which is slower in integers: no conversion"
    assert note in result.notes


def test_a_gelu_elsewhere_keeps_its_opset() -> None:
    """Behind a product ONNX Runtime finds it, for that gives floats; and for TensorRT, always."""
    model = net(
        GELU.replace("Conv", "MatMul"),
        "float[N, 4] x",
        "float[N, M] y",
        w=(4, 16),
        v=(16, 4),
        root=np.array(2**0.5, np.float32),
        one=np.array(1, np.float32),
        half=np.array(0.5, np.float32),
    )
    assert cpu(model, canonicalize=True).model.opset_imports[""] == 17
    assert quantize(spelled_gelu(), canonicalize=True).model.opset_imports[""] == 17
