"""quantize-weights: what is stored, that it is what the nodes compute with, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_nets import constant, data, decibels, net, reference, runtime

from graphopt.emit.tensorrt import build_engine
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, load, save, weight_bytes
from graphopt.ir.external import external_tensors
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.quantization import FORMATS, dequantize, fake_quantize, ranges, symmetric_scale
from graphopt.targets import get_target
from graphopt_passes.quantize_weights import QuantizeWeights

VECTOR = ("float[N, 64] x", "float[N, M] y")
PRODUCTS = {  # the body, its interface, the weight's shape, the axes of inputs and of outputs
    "matmul": ("y = MatMul(x, w)", VECTOR, (64, 48), 0, 1),
    "sequence": ("y = MatMul(x, w)", ("float[N, 5, 64] x", "float[N, 5, M] y"), (64, 48), 0, 1),
    "gemm": ("y = Gemm(x, w, b)", VECTOR, (64, 48), 0, 1),
    "gemm transB": ("y = Gemm<transB=1>(x, w, b)", VECTOR, (48, 64), 1, 0),
    "turned": ("t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t)", VECTOR, (48, 64), 1, 0),
    "shared": ("h = MatMul(x, w) y = MatMul(h, w)", VECTOR, (64, 64), 0, 1),
}
PRODUCT = pytest.mark.parametrize("product", PRODUCTS)


def apply(model: ir.Model, target: str = "generic", **options: Any) -> PassResult:
    """Runs the pass on `model`, in place, and checks that the result is valid and truthful."""
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = QuantizeWeights(**options).run(model, PassContext(target=get_target(target)))
    proto = ir.to_proto(result.model)
    onnx.checker.check_model(proto, full_check=True)
    assert result.modified == (proto.SerializeToString(deterministic=True) != before)
    return result


def build(product: str, opset: int = 21) -> ir.Model:
    text, (inputs, outputs), shape, *_ = PRODUCTS[product]
    return net(
        text, inputs, outputs, opset=opset, w=shape, **({"b": (48,)} if "b)" in text else {})
    )


def dequantized(model: ir.Model, name: str = "w") -> np.ndarray[Any, Any]:
    """The weight as the model's DequantizeLinear gives it, by this project's arithmetic."""
    q, scale = constant(model, f"{name}_quantized"), constant(model, f"{name}_scale")
    zero = f"{name}_zero_point"
    node = next(n for n in model.graph if n.op_type == "DequantizeLinear")
    (format,) = (f for f in FORMATS.values() if f.dtype == q.dtype)
    return dequantize(
        q,
        scale,
        constant(model, zero) if zero in model.graph.initializers else None,
        format,
        axis=node.attributes["axis"].as_int(),
        block_size=node.attributes.get_int("block_size", 0) or None,
    )


def with_weight(model: ir.Model, array: np.ndarray[Any, Any]) -> ir.Model:
    model = model.clone()
    model.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    return model


def run(model: ir.Model, feed: Any) -> np.ndarray[Any, Any]:
    return runtime(model, feed)[0]


@PRODUCT
@pytest.mark.parametrize(
    ("options", "type_"),
    [
        ({}, "int4"),
        ({"symmetric": False}, "uint4"),
        ({"block": 16}, "int4"),
        ({"format": "int8"}, "int8"),
        ({"format": "int8", "block": 32}, "int8"),
        ({"format": "int8", "symmetric": False}, "uint8"),
        ({"format": "fp8"}, "fp8"),
    ],
    ids=str,
)
def test_the_model_computes_with_the_dequantized_weight(
    product: str, options: dict[str, Any], type_: str
) -> None:
    """To the bit in ONNX Runtime; within 1e-5 of the peak in the reference evaluator."""
    model = build(product)
    before, feed = model.clone(), data(model)
    apply(model, **options)
    assert constant(model, "w_quantized").dtype == FORMATS[type_].dtype
    assert "w" not in model.graph.initializers
    expected = run(with_weight(before, dequantized(model)), feed)
    np.testing.assert_array_equal(run(model, feed), expected)
    peak = np.abs(expected).max()
    np.testing.assert_allclose(reference(model, feed)[0], expected, rtol=0, atol=1e-5 * peak)


@PRODUCT
def test_scales_lie_along_the_right_axis(product: str) -> None:
    *_, shape, inputs, outputs = PRODUCTS[product]
    blocked, whole = build(product), build(product)
    apply(blocked)
    apply(whole, format="int8")
    scales = list(shape)
    scales[inputs] = 2  # 64 inputs in blocks of 32
    assert constant(blocked, "w_scale").shape == tuple(scales)
    assert constant(whole, "w_scale").shape == (shape[outputs],)
    assert [n.op_type for n in blocked.graph].count("DequantizeLinear") == 1


def test_minmax_is_the_plain_formula_and_mse_loses_less() -> None:
    for format in ("int4", "int8", "fp8"):
        losses = {}
        for method in ("minmax", "mse"):
            model = build("matmul")
            weight = constant(model, "w")
            apply(model, format=format, method=method)
            losses[method] = decibels(weight, dequantized(model))
        layout = {"axis": 0, "block_size": 32} if format == "int4" else {"axis": 1}
        low, high = ranges(weight, **layout)
        scale = symmetric_scale(np.maximum(-low, high), FORMATS[format], np.float32)
        plain = fake_quantize(weight, scale, None, FORMATS[format], **layout)
        assert losses["minmax"] == pytest.approx(decibels(weight, plain))
        assert losses["mse"] > losses["minmax"]


def test_a_short_last_block() -> None:
    model = net("y = MatMul(x, w)", "float[N, 70] x", "float[N, M] y", opset=21, w=(70, 24))
    before, feed = model.clone(), data(model)
    apply(model)
    assert constant(model, "w_scale").shape == (3, 24)
    expected = run(with_weight(before, dequantized(model)), feed)
    np.testing.assert_array_equal(run(model, feed), expected)
    peak = np.abs(expected).max()
    np.testing.assert_allclose(reference(model, feed)[0], expected, rtol=0, atol=1e-5 * peak)


@pytest.mark.parametrize(("rows", "block"), [(64, 32), (100, 25), (24, 24), (48, 24), (96, 32)])
def test_for_tensorrt_blocks_divide_the_axis(rows: int, block: int) -> None:
    model = net("y = MatMul(x, w)", f"float[N, {rows}] x", "float[N, M] y", opset=21, w=(rows, 64))
    apply(model, target="sm86")
    assert constant(model, "w_scale").shape == (rows // block, 64)
    prime = net("y = MatMul(x, w)", "float[N, 67] x", "float[N, M] y", opset=21, w=(67, 64))
    result = apply(prime, target="sm86")
    assert not result.modified
    assert "no block of 16 to 32 divides its 67 inputs" in result.notes[0]


@pytest.mark.parametrize("group", [1, 2])
def test_conv_by_output_channel(group: int) -> None:
    model = net(f"y = Conv<group={group}>(x, w)", "float[N, 32, 8, 8] x", w=(24, 32 // group, 3, 3))
    before, feed = model.clone(), data(model)
    weight = constant(model, "w")
    result = apply(model, format="int8", block=32)
    assert result.rewrites == {"int8-conv": 1}
    assert default_opset(model) == 17
    assert constant(model, "w_scale").shape == (24,)
    expected = run(with_weight(before, dequantized(model)), feed)
    np.testing.assert_array_equal(run(model, feed), expected)
    assert decibels(weight, dequantized(model)) > 42


@pytest.mark.parametrize(("dtype", "opset"), [("float16", 19), ("bfloat16", 19)])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_the_scale_has_the_dtype_of_the_weight(dtype: str, opset: int, format: str) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((64, 32)) * 0.3).astype(dtype)
    model = net("y = MatMul(x, w)", f"{dtype}[N, 64] x", f"{dtype}[N, 32] y", opset=17, w=weight)
    before = model.clone()
    result = apply(model, format=format)
    raised = 21 if format == "int4" else opset
    assert default_opset(model) == raised
    assert f"raised the opset from 17 to {raised}, for its DequantizeLinear" in result.notes
    assert constant(model, "w_scale").dtype == weight.dtype
    back = dequantized(model)
    assert back.dtype == weight.dtype
    feed = {"x": rng.standard_normal((4, 64)).astype(dtype)}
    np.testing.assert_array_equal(
        reference(model, feed)[0], reference(with_weight(before, back), feed)[0]
    )


TABLE = ("int64[N, S] i", "float[N, S, 32] y")
IDS = {"i": np.array([[0, 5, 39], [7, 7, 1]])}


@pytest.mark.parametrize(
    ("target", "options", "operators"),
    [
        ("generic", {"format": "int8"}, ["DequantizeLinear", "Gather"]),
        ("sm86", {}, ["DequantizeLinear", "Gather"]),
        ("onnxruntime-cpu", {"format": "int8"}, ["Gather", "Gather", "DequantizeLinear"]),
        (
            "onnxruntime-cpu",
            {"format": "int8", "symmetric": False},
            ["Gather", "Gather", "Gather", "DequantizeLinear"],
        ),
    ],
)
def test_embeddings(target: str, options: dict[str, Any], operators: list[str]) -> None:
    model = net("y = Gather(w, i)", *TABLE, opset=19, w=(40, 32))
    table = constant(model, "w")
    result = apply(model, target=target, embeddings=True, **options)
    assert [node.op_type for node in model.graph] == operators
    assert sum(result.rewrites.values()) == 1
    actual = run(model, IDS)
    np.testing.assert_array_equal(actual, reference(model, IDS)[0])
    assert decibels(table[IDS["i"]], actual) > (18 if "format" not in options else 40)
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_a_table_that_is_also_multiplied_is_stored_once() -> None:
    """The embedding of a language model, tied to its head."""
    text = "e = Gather(w, i) t = Transpose<perm=[1, 0]>(w) y = MatMul(e, t)"
    model = net(text, "int64[N, S] i", "float[N, S, 40] y", opset=21, w=(40, 32))
    kept = model.clone()
    apply(model, embeddings=True)
    assert constant(model, "w_scale").shape == (40, 1)
    expected = run(with_weight(kept, dequantized(model)), IDS)
    np.testing.assert_array_equal(run(model, IDS), expected)
    assert not apply(kept).modified


STAYS = {
    "small": ("y = MatMul(x, w)", {"w": (64, 15)}, "fewer than 1024 elements"),
    "few outputs": ("y = MatMul(x, w)", {"w": (64, 15)}, "64 by 15: fewer than 16"),
    "few inputs": ("y = Conv<group=64>(x, w)", {"w": (128, 1, 3, 3)}, "9 by 128: fewer than 16"),
    "activations": ("y = MatMul(x, x)", {}, "it multiplies two activations"),
    "computed": ("w = Relu(v) y = Gemm(x, w)", {"v": (64, 48)}, "its weight is computed"),
    "left factor": ("m = MatMul(w, x) y = MatMul(m, w)", {"w": (64, 64)}, "MatMul 'm' reads its"),
    "float use": ("a = Add(x, w) y = MatMul(a, w)", {"w": (64, 64)}, "Add 'a' reads its weight"),
    "both axes": (
        "a = MatMul(x, w) y = Gemm<transB=1>(a, w)",
        {"w": (64, 64)},
        "used along both axes",
    ),
    "rank 3": ("y = MatMul(x, w)", {"w": (2, 64, 48)}, "its weight has rank 3"),
    "integers": (
        "a = Cast<to=6>(x) y = MatMul(a, w)",
        {"w": np.ones((64, 48), np.int32)},
        "its weight is int32",
    ),
    "nan": (
        "y = MatMul(x, w)",
        {"w": np.full((64, 48), np.nan, np.float32)},
        "holds NaN or an infinite value",
    ),
    "int4 Conv": ("y = Conv(x, w)", {"w": (32, 64, 1, 1)}, "TensorRT refuses it in a Conv"),
    "table": ("a = Cast<to=7>(x) y = Gather(w, a)", {"w": (64, 48)}, "embeddings=true would"),
    "excluded": ("y = MatMul(x, w)", {"w": (64, 48)}, "excluded"),
    "quantized": (
        "w = DequantizeLinear<axis=1>(q, s) y = MatMul(x, w)",
        {"q": np.zeros((64, 48), np.int8), "s": np.ones(48, np.float32)},
        "quantized already",
    ),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_stays_says_why(case: str) -> None:
    text, weights, reason = STAYS[case]
    interface = ("float[64, 64] x", "float[A, B] y")
    if "Conv" in text:
        interface = ("float[N, 64, 8, 8] x", "float[A, B, C, D] y")
    elif case in ("rank 3", "table"):
        interface = (interface[0], "float[A, B, C] y")
    elif case == "integers":
        interface = (interface[0], "int32[A, B] y")
    model = net(text, *interface, opset=21, **weights)
    options = {"min_elements": 512} if case == "few outputs" else {}
    if case == "few inputs":
        options["format"] = "int8"
    if case == "excluded":
        options["exclude"] = ("y",)
    result = apply(model, **options)
    assert not result.modified
    assert reason in "\n".join(result.notes)
    assert reason in str(result.details["float"])


def test_a_subgraph_that_reads_the_weight() -> None:
    text = """
    m = MatMul(x, w)
    y = If(c) <then_branch = t () => (float[N, 48] a) { a = MatMul(x, w) },
               else_branch = e () => (float[N, 48] b) { b = Identity(m) }>
    """
    inputs = "float[N, 64] x, bool c"
    model = net(text, inputs, "float[N, 48] y", opset=21, w=(64, 48))
    result = apply(model)
    assert not result.modified
    assert "a subgraph reads its weight, too" in result.notes[0]
    assert "1 in subgraphs or functions left in float: 'a'" in result.notes[1]


def test_a_weight_in_a_constant_node_and_one_that_is_an_output() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    model = net("y = MatMul(x, w)", *VECTOR, opset=21, w=weight)
    proto = ir.to_proto(model)
    (tensor,) = proto.graph.initializer
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    proto.graph.node.insert(0, node)
    del proto.graph.initializer[:]
    raw = ir.from_proto(proto)
    apply(raw)
    assert [n.op_type for n in raw.graph] == ["DequantizeLinear", "MatMul"]
    model.graph.outputs.append(model.graph.initializers["w"])
    assert "an output of the model, too" in apply(model).notes[0]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("sm86", {"format": "fp8"}, "'sm86' does not read fp8 weights: fp8 needs SM 8.9"),
        ("sm89", {"symmetric": False}, "does not read uint4 weights; it reads fp8, int4, int8"),
        ("sm75", {}, "'sm75' does not read int4 weights: int4 weights need SM 8.0"),
        ("generic", {"exclude": ("MatMull",)}, "did you mean 'MatMul'"),
    ],
)
def test_what_the_user_is_told(target: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        apply(build("matmul"), target=target, **options)


def test_the_same_model_gives_the_same_bytes() -> None:
    models = [build("shared", opset=17) for _ in range(2)]
    for model in models:
        apply(model)
    one, other = (ir.to_proto(m).SerializeToString(deterministic=True) for m in models)
    assert one == other


@pytest.mark.parametrize(
    "options", [{"block": 8}, {"block": 256}, {"format": "fp8", "symmetric": False}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"block must be 16 to 128|fp8 is symmetric"):
        QuantizeWeights(**options)


def test_a_fixture_shrinks_and_keeps_its_answers(tmp_path: Path) -> None:
    from graphopt.data.feeds import batches, input_specs
    from graphopt.data.samples import open_samples

    fixtures = Path(__file__).parents[2] / "fixtures"
    model = load(fixtures / "vit.onnx")
    specs = input_specs(model)
    samples = open_samples(str(fixtures / "calib.npz"), specs)
    ((feed, _), *_) = batches(samples, specs, 128, 128)
    before, size = run(model, feed), weight_bytes(model)
    result = apply(model)
    after = run(model, feed)
    assert decibels(before, after) > 24
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97
    assert weight_bytes(model) < 0.21 * size
    assert all(row["bytes_after"] < 0.16 * row["bytes_before"] for row in result.details["weights"])
    save(model, tmp_path / "small.onnx", external_data=True)
    loaded = load(tmp_path / "small.onnx")
    assert next(external_tensors(loaded), None) is not None
    np.testing.assert_array_equal(run(loaded, feed), after)


@pytest.mark.parametrize(
    ("target", "format"), [("sm86", "int4"), ("sm89", "int4"), ("sm89", "fp8")]
)
def test_tensorrt_reads_the_weights_in_its_product(
    target: str, format: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = net(
        "h = MatMul(x, w) r = Relu(h) y = Gemm<transB=1>(r, v, b)",
        "float16[64, 128] x",
        "float16[64, 32] y",
        opset=17,
        w=np.random.default_rng(0).standard_normal((128, 64)).astype(np.float16),
        v=np.random.default_rng(1).standard_normal((32, 64)).astype(np.float16),
        b=np.zeros(32, np.float16),
    )
    apply(model, target=target, format=format)
    save(model, tmp_path / "model.onnx")
    report = build_engine(
        tmp_path / "model.onnx", tmp_path / "model.engine", target=get_target(target)
    )
    products = [kernel for kernel in report.kernels if kernel.kind == "gemm"]
    held = {tensor.dtype for kernel in products for tensor in kernel.constants}
    assert len(products) == 2
    assert format in held
