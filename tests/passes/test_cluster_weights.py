"""cluster-weights: the clusters, the nodes that stand for a weight, and what is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_nets import constant, data, decibels, net, reference, runtime

from graphopt.emit.tensorrt import build_engine
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, load, save, weight_bytes
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.quantization import FORMATS, fake_quantize, mse_parameters, sqnr_db
from graphopt.targets import get_target
from graphopt_passes.cluster_weights import ClusterWeights
from graphopt_passes.cluster_weights.kmeans import centres, nearest

Array = np.ndarray[Any, Any]
FIXTURES = Path(__file__).parents[2] / "fixtures"


def squared_error(rows: Array, codebooks: Array) -> Array:
    pairs = zip(rows.astype(np.float64), codebooks, strict=True)
    return np.array([((row - book[nearest(row, book)]) ** 2).sum() for row, book in pairs])


def least_squared_error(row: Array, levels: int) -> float:
    """By dynamic programming over all places to cut."""
    x = np.sort(row).astype(np.float64)
    first, second = (np.concatenate([[0], np.cumsum(x**power)]) for power in (1, 2))
    places = np.arange(len(x) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = (first[None] - first[:, None]) ** 2 / (places[None] - places[:, None])
    cost = second[None] - second[:, None] - np.where(np.isfinite(sums), sums, 0)
    cost = np.where(places[None] >= places[:, None], cost, np.inf)
    total = cost[0]
    for _ in range(levels - 1):
        total = (total[:, None] + cost).min(axis=0)
    return float(total[-1])


def laplace(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).laplace(size=shape).astype(np.float32)


@pytest.mark.parametrize("levels", [4, 16, 64])
@pytest.mark.parametrize("size", [70, 600, 1500])
def test_one_row_is_clustered_best(levels: int, size: int) -> None:
    """To the best that there is; within 0.1% where not all places are tried."""
    row = laplace(1, size, seed=levels)
    best = least_squared_error(row[0], levels)
    found = squared_error(row, centres(row, levels))[0]
    assert best * (1 - 1e-9) <= found <= best * (1 + 1e-3 * (size > 1024) + 1e-6)


@pytest.mark.parametrize("levels", [4, 16, 32])
def test_many_rows_are_clustered_well(levels: int) -> None:
    """Within 5% of the least squared error each, and 3% in the mean."""
    rows = laplace(8, 400)
    best = np.array([least_squared_error(row, levels) for row in rows])
    ratio = squared_error(rows, centres(rows, levels)) / best
    assert (ratio > 1 - 1e-9).all()
    assert ratio.max() < 1.05
    assert ratio.mean() < 1.03


@pytest.mark.parametrize("rows", [1, 5])
def test_far_modes_are_told_apart(rows: int) -> None:
    rng = np.random.default_rng(0)
    modes = rng.choice([-100.0, 0.0, 3.0, 1000.0], (rows, 3000))
    values = (modes + rng.normal(0, 0.01, modes.shape)).astype(np.float32)
    found = centres(values, 4)
    np.testing.assert_allclose(found, np.tile([-100, 0, 3, 1000], (rows, 1)), atol=0.01)


def test_few_distinct_numbers_come_back_exactly() -> None:
    rng = np.random.default_rng(0)
    values = np.array([-0.5, 0.0, 0.125, 7.0], np.float32)
    rows = rng.choice(values, (3, 500))
    rows[2] = 0.25
    found = centres(rows, 16)
    assert (squared_error(rows, found) == 0).all()
    assert found.shape == (3, 16)
    assert (np.diff(found, axis=1) >= 0).all()
    short = centres(laplace(2, 3), 16)
    assert (squared_error(laplace(2, 3), short) == 0).all()


@pytest.mark.parametrize("rows", [1, 4])
def test_zero_stays_zero(rows: int) -> None:
    values = laplace(rows, 800)
    values[:, ::3] = 0
    plain, kept = centres(values, 8), centres(values, 8, zero=True)
    assert not (plain == 0).any(axis=1).all()
    assert (kept == 0).any(axis=1).all()
    for row, book in zip(values, kept, strict=True):
        assert (book[nearest(row, book)][row == 0] == 0).all()
    assert (squared_error(values, kept) < 1.1 * squared_error(values, plain)).all()
    dense = laplace(rows, 800) + 5
    np.testing.assert_array_equal(centres(dense, 8, zero=True), centres(dense, 8))


def test_nearest_is_nearest() -> None:
    book = np.sort(laplace(16))
    values = laplace(7, 9, seed=3)
    expected = np.abs(values[..., None].astype(np.float64) - book).argmin(axis=-1)
    np.testing.assert_array_equal(nearest(values, book), expected)


def apply(model: ir.Model, target: str = "generic", **options: Any) -> PassResult:
    result = ClusterWeights(**options).run(model, PassContext(target=get_target(target)))
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    return result


VECTOR = ("float[N, 600] x", "float[N, M] y")
IMAGE = ("float[N, 64, 6, 6] x", "float[N, C, H, W] y")
NETS = {  # the body, its interface, the weight's shape, the codebooks
    "matmul": ("y = MatMul(x, w)", VECTOR, (600, 20), 20),
    "turned": ("t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t)", VECTOR, (20, 600), 20),
    "gemm": ("y = Gemm(x, w)", VECTOR, (600, 20), 20),
    "gemm transB": ("y = Gemm<transB=1>(x, w)", VECTOR, (20, 600), 20),
    "conv": ("y = Conv(x, w)", IMAGE, (10, 64, 3, 3), 10),
    "small channels": ("y = Conv(x, w)", IMAGE, (24, 64, 1, 1), 1),
    "transposed conv": ("y = ConvTranspose(x, w)", IMAGE, (64, 64, 2, 2), 64),
    "lstm": (
        "s, y = LSTM<hidden_size=8>(x, w, r)",
        ("float[S, N, 600] x", "float[D, N, 8] y"),
        (1, 32, 600),
        32,
    ),
}


@pytest.mark.parametrize("net_name", NETS)
@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("opset", [17, 21])
def test_the_model_computes_with_the_codebooks(net_name: str, per: str, opset: int) -> None:
    """The weight to the bit; what is computed with it within 1e-5 of the peak."""
    text, (inputs, outputs), shape, codebooks = NETS[net_name]
    weights = {"w": shape, **({"r": (1, 32, 8)} if net_name == "lstm" else {})}
    before = net(text, inputs, outputs, opset=opset, **weights)
    result = apply(before.clone(), per=per)
    model, feed = result.model, data(before)
    assert result.modified
    assert default_opset(model) == 21
    assert constant(model, "w_indices").dtype == ml_dtypes.uint4
    book = constant(model, "w_codebook")
    (row,) = result.details["weights"]
    assert row["codebooks"] == (1 if per == "tensor" else codebooks) == book.size // 16
    # What the nodes make of it, as an output of their own.
    (last,) = [n for n in model.graph if n.op_type == "Reshape"] or [
        n for n in model.graph if n.op_type.startswith("Gather")
    ]
    model.graph.outputs.append(last.outputs[0])
    actual, restored = runtime(model, feed)
    weight = constant(before, "w")
    np.testing.assert_array_equal(restored, rebuilt(model, weight.shape))
    assert sqnr_db(weight, restored) == pytest.approx(row["sqnr_db"], abs=0.005)
    before.graph.initializers["w"].const_value = ir.tensor(restored, name="w")
    # Not to the bit: what ONNX Runtime packs beforehand it adds up in another order.
    (expected,) = runtime(before, feed)
    peak = np.abs(expected).max()
    for found in (actual, reference(model, feed)[0]):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * peak)


def rebuilt(model: ir.Model, shape: tuple[int, ...]) -> Array:
    """The weight that codebooks and indices stand for."""
    book = constant(model, "w_codebook")
    indices = constant(model, "w_indices").astype(int)
    if book.ndim == 1:
        return np.asarray(book[indices])
    axis = 1 if book.shape[1] == 16 else 0
    return np.take_along_axis(book, indices, axis).reshape(shape)


@pytest.mark.parametrize(
    ("bits", "target", "dtype", "opset"),
    [
        (4, "generic", ml_dtypes.uint4, 21),
        (2, "onnxruntime-cpu", ml_dtypes.uint4, 21),
        (5, "generic", np.uint8, 17),
        (4, "sm86", np.uint8, 17),
    ],
)
def test_the_type_of_the_indices(bits: int, target: str, dtype: Any, opset: int) -> None:
    model = net("y = MatMul(x, w)", *VECTOR, w=(600, 20))
    result = apply(model, target, bits=bits, per="tensor")
    assert constant(result.model, "w_indices").dtype == dtype
    assert default_opset(result.model) == opset
    assert ("the engine does not" in "".join(result.notes)) == (target == "sm86")


def test_where_the_opset_cannot_be_raised_indices_are_bytes() -> None:
    function = '<domain: "own", opset_import: ["" : 17]> f (a) => (b) { b = Relu(a) }'
    model = net(
        "h = MatMul(x, w) y = own.f(h)",
        *VECTOR,
        imports=', "own" : 1',
        functions=function,
        w=(600, 20),
    )
    result = apply(model)
    assert constant(result.model, "w_indices").dtype == np.uint8
    assert default_opset(result.model) == 17
    assert "the indices take 8 bits each, not 4: the model has functions" in result.notes[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_codebooks_have_the_dtype_of_the_weight(dtype: str) -> None:
    weight = laplace(600, 20).astype(dtype)
    model = net("y = MatMul(x, w)", f"{dtype}[N, 600] x", f"{dtype}[N, M] y", opset=21, w=weight)
    result = apply(model)
    book, indices = constant(result.model, "w_codebook"), constant(result.model, "w_indices")
    assert book.dtype == weight.dtype
    restored = np.take_along_axis(book, indices.astype(int), 0)
    assert sqnr_db(weight, restored) > 18


@pytest.mark.parametrize(
    ("fixture", "per"),
    [("resnet", "channel"), ("vit", "channel"), ("mobilenet", "tensor")],
)
def test_less_is_lost_than_with_equal_steps(fixture: str, per: str) -> None:
    """Trained weights at 4 bits, against the best linear scales for the same channels."""
    model = load(FIXTURES / f"{fixture}.onnx")
    weights = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    size = weight_bytes(model)
    result = apply(model, per=per)
    assert weight_bytes(result.model) < 0.3 * size
    format = FORMATS["int4"]
    for row in result.details["weights"]:
        weight = weights[row["weight"]]
        axis = None if row["codebooks"] == 1 else weight.shape.index(row["codebooks"])
        scale, zero = mse_parameters(weight, format, axis=axis, limits=format.limits)
        linear = sqnr_db(weight, fake_quantize(weight, scale, zero, format, axis=axis))
        assert row["sqnr_db"] > linear, row


def test_a_fixture_keeps_its_answers(tmp_path: Path) -> None:
    from graphopt.data.feeds import batches, input_specs
    from graphopt.data.samples import open_samples

    model = load(FIXTURES / "resnet.onnx")
    specs = input_specs(model)
    samples = open_samples(str(FIXTURES / "calib.npz"), specs)
    ((feed, _), *_) = batches(samples, specs, 64, 64)
    (before,) = runtime(model, feed)
    size = save(model, tmp_path / "before.onnx")
    result = apply(model)
    (after,) = runtime(result.model, feed)
    assert decibels(before, after) > 24
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.96
    assert save(result.model, tmp_path / "after.onnx") < 0.25 * size
    np.testing.assert_array_equal(runtime(load(tmp_path / "after.onnx"), feed)[0], after)


@pytest.mark.parametrize(
    ("text", "weights", "options", "reason"),
    [
        ("y = MatMul(x, w)", {"w": (600, 1)}, {}, "fewer than 1024 elements"),
        ("y = MatMul(x, w)", {"w": (600, 8)}, {"exclude": ("y",)}, "excluded"),
        (
            "y = MatMul(x, w)",
            {"w": np.full((600, 8), np.inf, np.float32)},
            {},
            "holds NaN or an infinite value",
        ),
        ("i = Cast<to=7>(x) g = Gather(w, i) y = Squeeze(g)", {"w": (9, 200)}, {}, "embeddings"),
        (
            "i = Cast<to=6>(x) m = MatMul(i, w) y = Cast<to=1>(m)",
            {"w": np.ones((600, 8), np.int32)},
            {},
            "its weight is int32",
        ),
    ],
)
def test_what_stays_says_why(
    text: str, weights: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    model = net(text, "float[1, 600] x", "float[A, B] y", opset=21, **weights)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = apply(model, **options)
    assert not result.modified
    assert ir.to_proto(result.model).SerializeToString(deterministic=True) == before
    assert reason in "\n".join(result.notes)
    assert reason in str(result.details["left"])


def test_tables_if_asked_for() -> None:
    model = net("y = Gather(w, i)", "int64[N] i", "float[N, 600] y", opset=21, w=(40, 600))
    table = constant(model, "w")
    result = apply(model, embeddings=True)
    (rows,) = runtime(result.model, {"i": np.array([3, 3, 39])})
    assert decibels(table[[3, 3, 39]], rows) > 18


def test_a_weight_that_a_subgraph_shares_is_made_ahead() -> None:
    text = """
    y = If(c) <then_branch = t () => (float[N, 20] a) { a = MatMul(x, w) },
               else_branch = e () => (float[N, 20] b) { z = MatMul(x, w) b = Relu(z) }>
    v = MatMul(x, w)
    """
    model = net(
        text, "float[N, 600] x, bool c", "float[N, 20] y, float[N, 20] v", opset=21, w=(600, 20)
    )
    result = apply(model)
    feed = {"x": laplace(3, 600), "c": np.array(True)}
    y, v = runtime(result.model, feed)
    np.testing.assert_array_equal(y, v)


def test_the_same_model_gives_the_same_bytes() -> None:
    model = net("h = MatMul(x, w) y = Gemm(h, v)", *VECTOR, w=(600, 64), v=(64, 32))
    written = {
        ir.to_proto(apply(model.clone()).model).SerializeToString(deterministic=True)
        for _ in range(2)
    }
    assert len(written) == 1


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 6}, {"bits": 9, "per": "tensor"}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bits must be 2 to"):
        ClusterWeights(**options)


def test_a_misspelt_name() -> None:
    with pytest.raises(GraphoptError, match="pass 'cluster-weights': exclude: no node"):
        apply(net("y = MatMul(x, w)", *VECTOR, w=(600, 20)), exclude=("yy",))


def test_tensorrt_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = net("y = Conv(x, w)", "float[1, 64, 6, 6] x", IMAGE[1], w=(10, 64, 3, 3))
    result = apply(model, "sm86")
    save(result.model, tmp_path / "model.onnx")
    report = build_engine(
        tmp_path / "model.onnx", tmp_path / "model.engine", target=get_target("sm86")
    )
    assert [kernel.kind for kernel in report.kernels].count("conv") == 1
