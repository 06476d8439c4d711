"""Real TensorRT-RTX engines, built on this CPU."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import engine_models as models
import onnx
import pytest

from graphopt.emit.tensorrt import (
    BuilderOptions,
    EngineReport,
    batch_shapes,
    build_engine,
    parse_shapes,
)
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.report.engine import print_engine
from graphopt.targets import get_target

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT-RTX is made for x86-64 machines only"
)


def build(model: onnx.ModelProto | Path, folder: Path, target: str = "sm86", **options: object):  # type: ignore[no-untyped-def]
    """Builds `model` in `folder`; on failure asserts that nothing is left of it."""
    path = model if isinstance(model, Path) else models.save(model, folder / "model.onnx")
    before = sorted(folder.iterdir())
    if not isinstance(model, Path) and "shapes" not in options:
        options["shapes"] = batch_shapes(load(path))
    try:
        return build_engine(
            path,
            folder / "model.engine",
            target=get_target(target),
            **options,  # type: ignore[arg-type]
        )
    except GraphoptError:
        assert sorted(folder.iterdir()) == before
        raise


@pytest.fixture(scope="module")
def float_report(tmp_path_factory: pytest.TempPathFactory) -> EngineReport:
    return build(models.float_net(), tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def int8_report(tmp_path_factory: pytest.TempPathFactory) -> EngineReport:
    return build(models.int8_net(), tmp_path_factory.mktemp("int8"))


def test_the_engine_is_in_place_and_nothing_else(float_report: EngineReport) -> None:
    folder = float_report.path.parent
    assert sorted(path.name for path in folder.iterdir()) == ["model.engine", "model.onnx"]
    assert float_report.path.stat().st_size == float_report.engine_bytes > 100_000
    assert float_report.backend == "rtx-aot"
    assert re.fullmatch(r"TensorRT-RTX 1\.7\.[0-9.]+", float_report.builder)
    assert 0 < float_report.build_seconds < 60


def test_axes_named_as_unknown_may_differ(tmp_path: Path) -> None:
    model = models.float_net()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim in list(dims)[2:]:
        dim.dim_param = "?"
    shapes = parse_shapes("image=1x3x16x24:2x3x16x24:4x3x16x24")
    report = build(model, tmp_path, shapes=shapes)
    assert report.profile["image"][2] == (4, 3, 16, 24)


def test_a_float_model_has_no_int8_kernel(float_report: EngineReport) -> None:
    assert float_report.kernel_table_note is None
    assert float_report.compute_kernels_by_precision == {"fp32": 3}
    assert set(float_report.kernels_by_precision) == {"fp32"}
    assert [(n.name, n.op_type, n.precision) for n in float_report.compute_nodes or ()] == [
        ("conv1", "Conv", "fp32"),
        ("conv2", "Conv", "fp32"),
        ("fc", "Gemm", "fp32"),
    ]
    # The builder adds an alpha and a beta to each Conv.
    assert float_report.weight_bytes is not None
    assert 0 <= float_report.weight_bytes - models.FLOAT_NET_WEIGHT_BYTES <= 64


def test_kernels_say_what_they_compute(float_report: EngineReport) -> None:
    conv = float_report.compute_kernels()[0]
    assert conv.kind == "conv"
    assert "conv1" in conv.onnx_nodes
    assert [(t.shape, t.dtype) for t in conv.inputs] == [((-1, 3, 16, 16), "fp32")]
    assert conv.weights is not None
    assert conv.weights.shape == (16, 3, 3, 3)
    assert conv.weights.nbytes == 4 * 16 * 27
    assert "pool" in {kernel.kind for kernel in float_report.kernels or ()}


def test_every_conv_and_gemm_of_a_quantized_model_is_int8(int8_report: EngineReport) -> None:
    assert int8_report.compute_nodes_by_precision == {"int8": 8}
    assert int8_report.compute_kernels_by_precision == {"int8": 8}
    assert [node.name for node in int8_report.compute_nodes or ()] == [
        "stem",
        "block1",
        "block2",
        "depthwise",
        "squeeze",
        "excite",
        "head",
        "fc",
    ]
    assert all(k.weights and k.weights.dtype == "int8" for k in int8_report.compute_kernels())


def test_a_fixed_batch_stores_the_zeros_of_a_depthwise_conv(
    tmp_path: Path, int8_report: EngineReport, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = build(models.int8_net(), tmp_path, shapes=parse_shapes("image=4x1x16x16"))
    zeros = 4 * 16 * 3 * 16 * 16
    assert (int8_report.padding_bytes, fixed.padding_bytes) == (0, zeros)
    assert fixed.weight_bytes is not None
    assert fixed.weight_bytes < zeros
    print_engine(int8_report)
    assert "zeros in the engine" not in capsys.readouterr().out
    print_engine(fixed)
    assert f"zeros in the engine: {zeros:,} bytes" in capsys.readouterr().out


def test_without_weight_quantization_it_is_not_int8(tmp_path: Path) -> None:
    g = models.Graph()
    x = g.op("MatMul", g.qdq(g.input("x", ["n", 8, 64])), g.weight(64, 32), name="half")
    x = g.op("MatMul", x, g.int8_weight(32, 16, axis=1), name="weight_only")
    report = build(g.model(x, ["n", 8, 16]), tmp_path)
    assert report.compute_nodes_by_precision == {"fp32": 2}


def test_a_small_product_of_one_row_is_a_gemm(tmp_path: Path) -> None:
    report = build(models.float_net(1), tmp_path)
    assert report.compute_nodes_by_precision == {"fp32": 3}
    assert [k.kind for k in report.compute_kernels() if "fc" in k.onnx_nodes] == ["gemm"]


def test_fused_attention_is_one_kernel_for_two_nodes(tmp_path: Path) -> None:
    report = build(models.attention(), tmp_path)
    assert report.compute_nodes_by_precision == {"fp16": 6}
    attention = [kernel for kernel in report.compute_kernels() if kernel.kind == "attention"]
    assert len(attention) == 1
    assert {"scores", "mix"} <= set(attention[0].onnx_nodes)


def test_the_report_is_json(int8_report: EngineReport) -> None:
    loaded = json.loads(json.dumps(int8_report.to_json()))
    assert loaded["target"] == "sm86"
    assert loaded["compute_kernels_by_precision"] == {"int8": 8}
    assert loaded["profile"]["image"][2] == [32, 1, 16, 16]
    assert len(loaded["kernels"]) == len(int8_report.kernels or ())


def test_the_same_model_gives_the_same_kernels(tmp_path: Path, int8_report: EngineReport) -> None:
    again = build(models.int8_net(), tmp_path)
    assert again.kernels == int8_report.kernels
    assert again.engine_bytes == int8_report.engine_bytes


def test_the_profile_is_in_the_report(float_report: EngineReport) -> None:
    assert float_report.profile == {"image": ((1, 3, 16, 16), (8, 3, 16, 16), (32, 3, 16, 16))}


def test_a_static_model_has_no_profile(tmp_path: Path) -> None:
    assert build(models.float_net(1), tmp_path).profile == {}


def test_given_shapes_are_the_profile(tmp_path: Path) -> None:
    model = models.one_node("Relu", "n", 3, "height", "width")
    with pytest.raises(
        GraphoptError,
        match=r"axis 0 of input 'x' \(nx3xheightxwidth\).*--shapes .x:1x3xheightxwidth,8x",
    ):
        build(model, tmp_path, shapes={})
    shapes = parse_shapes("x=1x3x8x8:2x3x16x16:4x3x32x32")
    assert build(model, tmp_path, shapes=shapes).profile == shapes


def test_an_input_that_decides_shapes_is_refused(tmp_path: Path) -> None:
    g = models.Graph()
    x, shape = g.input("x", [4, 6]), g.input("shape", [2], models.INT64)
    model = g.model(g.op("Reshape", x, shape), ["a", "b"])
    with pytest.raises(GraphoptError, match="input 'shape' decide the shape of other tensors"):
        build(model, tmp_path)


def test_external_data_is_found(tmp_path: Path) -> None:
    path = models.save(models.float_net(8), tmp_path / "model.onnx", external=True)
    report = build(path, tmp_path)
    assert report.compute_nodes_by_precision == {"fp32": 3}
    (tmp_path / "model.onnx.data").unlink()
    report.path.write_bytes(b"kept")
    with pytest.raises(GraphoptError, match=r"external data of tensor .* is missing"):
        build(path, tmp_path)
    assert report.path.read_bytes() == b"kept"


def test_paths_may_hold_anything(tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner: größer"
    folder.mkdir()
    assert build(models.one_node("Relu", 1, 4), folder).path.is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is a text file\n", "model.onnx: is not an ONNX model"),
        (b"", "model.onnx: the file is empty"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphoptError, match=message):
        build(path, tmp_path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = models.save(models.float_net(), tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GraphoptError, match="is not an ONNX model: truncated"):
        build(path, tmp_path)


def test_a_model_without_nodes_is_refused(tmp_path: Path) -> None:
    model = models.one_node("Relu", 1, 4)
    model.graph.ClearField("node")
    model.graph.output[0].name = "x"
    with pytest.raises(GraphoptError, match="the graph has no nodes"):
        build(model, tmp_path)


def test_an_opset_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    model = models.one_node("Relu", 1, 4)
    model.opset_import[0].version = 99
    onnx.checker.check_model(model)  # onnx itself lets it pass
    with pytest.raises(GraphoptError, match="uses opset 99, and sm86 takes 7 to 25"):
        build(model, tmp_path)


def test_the_parser_error_names_the_node_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError) as raised:
        build(models.int32_bias(), tmp_path)
    text = str(raised.value)
    assert "\n" not in text
    assert "node 'bias_dequantize' [DequantizeLinear]" in text
    assert "input has type Int32" in text
    assert "CUDA" not in text
    assert raised.value.fix is not None
    assert "keep biases in float" in raised.value.fix


def test_a_zero_point_that_is_not_zero_is_refused(tmp_path: Path) -> None:
    g = models.Graph()
    model = g.model(g.qdq(g.input("x", [1, 4]), 3), [1, 4])
    with pytest.raises(GraphoptError, match=r"Non-zero zero point.*quantize symmetrically"):
        build(model, tmp_path)


def test_an_operator_that_the_builder_lacks_is_refused(tmp_path: Path) -> None:
    g = models.Graph()
    x = g.op("Cast", g.op("NonZero", g.input("x", [4]), name="find"), to=onnx.TensorProto.FLOAT)
    with pytest.raises(GraphoptError, match=r"node 'find' \[NonZero\].*unknown to this builder"):
        build(g.model(x, [1, "count"]), tmp_path)


def test_what_the_gpu_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        GraphoptError, match=r"cannot build it for sm75: .*'fc'.*cast the model to fp16"
    ):
        build(models.float_net(), tmp_path, "sm75")


def test_an_existing_engine_survives_a_failure(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"an older engine")
    with pytest.raises(GraphoptError):
        build(models.int32_bias(), tmp_path)
    assert (tmp_path / "model.engine").read_bytes() == b"an older engine"
    build(models.one_node("Relu", 1, 4), tmp_path)
    assert (tmp_path / "model.engine").stat().st_size > 1000


def test_the_time_limit_holds(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"took longer than 0.05 s.*--timeout"):
        build(models.float_net(), tmp_path, timeout_s=0.05)


def test_a_workspace_limit_is_accepted(tmp_path: Path) -> None:
    assert build(
        models.one_node("Relu", 1, 4), tmp_path, options=BuilderOptions(workspace_bytes=1 << 20)
    ).kernels


def test_the_model_is_not_overwritten(tmp_path: Path) -> None:
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    before = path.read_bytes()
    with pytest.raises(GraphoptError, match="is the model itself"):
        build_engine(path, path, target=get_target("sm86"))
    assert path.read_bytes() == before


def test_target_and_shapes_may_be_text(tmp_path: Path) -> None:
    path = models.save(models.one_node("Relu", "n", 4), tmp_path / "model.onnx")
    report = build_engine(path, tmp_path / "e", target="sm86", shapes="x:1x4,2x4,8x4")
    assert report.target == "sm86"
    assert report.profile == {"x": ((1, 4), (2, 4), (8, 4))}


def test_a_missing_model_or_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"from a ModelProto; write one with graphopt\.save"):
        build_engine(models.float_net(), tmp_path / "e", target="sm86")  # type: ignore[arg-type]
    with pytest.raises(GraphoptError, match=r"nowhere\.onnx: no such file"):
        build_engine(tmp_path / "nowhere.onnx", tmp_path / "e", target=get_target("sm86"))
    path = models.save(models.one_node("Relu", 1, 4), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match="the output folder does not exist"):
        build_engine(path, tmp_path / "no" / "e", target=get_target("sm86"))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("Runtime", ("deserialize_cuda_engine",)),
        (
            "IExecutionContext",
            ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"),
        ),
        ("ICudaEngine", ("num_io_tensors", "get_tensor_name", "get_tensor_mode")),
        ("ICudaEngine", ("get_tensor_dtype", "create_execution_context")),
        ("ICudaEngine", ("create_engine_inspector", "device_memory_size_v2")),
        ("EngineInspector", ("get_engine_information",)),
        ("IBuilderConfig", ("create_timing_cache", "set_timing_cache", "get_timing_cache")),
        ("IBuilderConfig", ("progress_monitor", "DLA_core", "default_device_type", "set_flag")),
        ("IProgressMonitor", ("phase_start", "step_complete", "phase_finish")),
        ("ITimingCache", ("serialize",)),
        ("BuilderFlag", ("GPU_FALLBACK", "REFIT", "SPARSE_WEIGHTS")),
        ("BuilderFlag", ("STRIP_PLAN", "VERSION_COMPATIBLE")),
        ("TensorIOMode", ("INPUT", "OUTPUT")),
        ("DataType", ("FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL")),
        ("LayerInformationFormat", ("JSON",)),
        ("DeviceType", ("DLA",)),
    ],
)
def test_the_fakes_use_names_that_are_real(kind: str, names: tuple[str, ...]) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert [name for name in names if not hasattr(getattr(trt, kind), name)] == []


def test_a_build_tells_how_far_it_is(tmp_path: Path) -> None:
    shown: list[tuple[str, int | None, int]] = []

    class Watch:
        def track(self, items, description, total=None):  # type: ignore[no-untyped-def]
            yield from (items := list(items))
            shown.append((description, total, len(items)))

    build(models.float_net(1), tmp_path, progress=Watch())
    assert all(count == total for _, total, count in shown)  # a quick build may show nothing
