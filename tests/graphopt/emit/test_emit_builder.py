"""The one builder module against each version of TensorRT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import engine_models as models
import fake_tensorrt
import onnx
import pytest

from graphopt.emit.tensorrt import BuilderOptions, batch_shapes, build_engine
from graphopt.emit.tensorrt.builder import Log, build
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.targets import get_target


def request(model: onnx.ModelProto, folder: Path, **changes: object) -> BuildRequest:
    path = models.save(model, folder / "model.onnx")
    made = BuildRequest(
        model=str(path),
        engine=str(folder / "model.engine"),
        target="jetson-orin",
        sm="8.7",
        opsets=(7, 25),
        shapes=batch_shapes(load(path)),
        timeout_s=60,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "flags"),
    [("10.3", 0b11), ("10.13", 0b11), ("11.4", 0b1)],
)
def test_every_version_builds_strongly_typed(tmp_path: Path, version: str, flags: int) -> None:
    trt = fake_tensorrt.make(version)
    made = request(models.float_net(), tmp_path, options=BuilderOptions(workspace_bytes=1 << 28))
    result = build(trt, made, Log(), gpu=lambda: "8.7")
    shapes = ((1, 3, 16, 16), (8, 3, 16, 16), (32, 3, 16, 16))
    assert trt.calls == [
        ("create_network", flags),
        ("parse_from_file", made.model),
        ("set_memory_pool_limit", "WORKSPACE", 1 << 28),
        ("set_shape", "image", *shapes),
        ("add_optimization_profile",),
        ("build_serialized_network", "DETAILED"),
    ]
    assert Path(made.engine).read_bytes() == fake_tensorrt.serialize(version, onnx.load(made.model))
    assert result.builder == f"TensorRT {version}.0"
    assert result.engine_bytes == Path(made.engine).stat().st_size
    assert result.profile == {"image": shapes}
    assert result.nodes == (("conv1", "Conv"), ("conv2", "Conv"), ("fc", "Gemm"))
    assert result.warnings == ("slow kernel",)
    assert BuildResult.from_json(result.to_json()) == result
    assert BuildRequest.from_json(made.to_json()) == made


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_a_static_model_needs_no_profile(tmp_path: Path, version: str) -> None:
    trt = fake_tensorrt.make(version)
    assert build(trt, request(models.float_net(1), tmp_path), Log(), gpu=lambda: None).profile == {}
    assert {call[0] for call in trt.calls} == {
        "create_network",
        "parse_from_file",
        "build_serialized_network",
    }


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_parser_errors_are_one_line(tmp_path: Path, version: str) -> None:
    g = models.Graph()
    x = g.input("x", [4])
    for index in range(7):
        g.op("NonZero", x, name=f"find{index}")
    model = g.model(g.op("Relu", x), [4])
    with pytest.raises(GraphoptError) as raised:
        build(fake_tensorrt.make(version), request(model, tmp_path), Log(), gpu=lambda: None)
    text = str(raised.value)
    assert f"TensorRT {version}.0 cannot read it: node 'find0' [NonZero]: false" in text
    assert "(UNSUPPORTED_NODE) | node 'find1'" in text
    assert text.endswith("and 2 more")


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_a_failed_build_says_what_the_log_says(tmp_path: Path, version: str) -> None:
    g = models.Graph()
    model = g.model(g.op("Erf", g.input("x", [4])), [4])
    with pytest.raises(GraphoptError) as raised:
        build(fake_tensorrt.make(version), request(model, tmp_path), Log(), gpu=lambda: None)
    assert raised.value.what == (
        f"TensorRT {version}.0 cannot build it for jetson-orin: Could not find any implementation"
    )
    assert not Path(tmp_path / "model.engine").exists()


def test_the_gpu_must_be_the_targets(tmp_path: Path) -> None:
    trt = fake_tensorrt.make("10.3")
    made = request(models.float_net(), tmp_path)
    with pytest.raises(
        GraphoptError, match=r"GPU has compute capability 8\.9, jetson-orin has 8\.7"
    ):
        build(trt, made, Log(), gpu=lambda: "8.9")
    # `tensorrt` is for whatever GPU is here.
    build(trt, replace(made, sm=None), Log(), gpu=lambda: "8.9")


def test_a_version_without_strong_types_is_refused(tmp_path: Path) -> None:
    trt = fake_tensorrt.make("10.3")
    trt.__version__ = "8.6.2"
    del trt.NetworkDefinitionCreationFlag
    trt.NetworkDefinitionCreationFlag = type("Flag", (), {"EXPLICIT_BATCH": 0})
    with pytest.raises(GraphoptError, match=r"TensorRT 8\.6\.2 cannot take.*10\.3 or newer"):
        build(trt, request(models.float_net(), tmp_path), Log(), gpu=lambda: None)


def test_nodes_without_names_and_in_branches_are_listed(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2, 2] x, bool c) => (float[2, 2] z) {
            y = MatMul (x, x)
            z = If (c) <
                then_branch = t () => (float[2, 2] a) { a = MatMul (y, y) },
                else_branch = e () => (float[2, 2] b) { b = Relu (y) }
            >
        }"""
    )
    made = request(model, tmp_path)
    result = build(fake_tensorrt.make("11.4"), made, Log(), gpu=lambda: None)
    assert result.nodes == (("node_of_y", "MatMul"), ("node_of_a", "MatMul"))


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_the_whole_way_through_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    package = tmp_path / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"import fake_tensorrt\nglobals().update(vars(fake_tensorrt.make({version!r})))\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    path = models.save(models.float_net(), tmp_path / "model.onnx")
    report = build_engine(
        path,
        tmp_path / "model.engine",
        target=get_target("tensorrt"),
        shapes=batch_shapes(load(path)),
    )
    assert report.path.read_bytes() == fake_tensorrt.serialize(version, onnx.load(path))
    assert (report.backend, report.builder) == ("tensorrt", f"TensorRT {version}.0")
    assert report.kernels is None
    assert report.compute_nodes is None
    assert report.compute_kernels() == ()
    assert report.kernel_table_note == (
        f"the builder's log holds no kernel table (TensorRT {version}.0); "
        "the engine itself is complete"
    )


def test_a_package_that_does_not_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: no such file')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    path = models.save(models.float_net(1), tmp_path / "model.onnx")
    with pytest.raises(GraphoptError, match=r"does not load: libnvinfer\.so\.10: no such file"):
        build_engine(path, tmp_path / "model.engine", target=get_target("tensorrt"))
