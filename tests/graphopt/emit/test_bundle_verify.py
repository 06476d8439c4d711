"""verify.py of a bundle, against a runtime of each version."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import engine_models as models
import fake_cudart
import fake_tensorrt
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.emit.tensorrt import build_engine, parse_shapes
from graphopt.targets import get_target

VERSIONS = fake_tensorrt.VERSIONS


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_of_bundle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    images = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "real.npz", image=images)
    path = models.save(models.float_net(), tmp_path / "source.onnx")
    build_engine(
        path,
        tmp_path / "out",
        target=get_target("jetson-orin"),
        backend="bundle",
        samples=str(tmp_path / "real.npz"),
        shapes=parse_shapes("image:1x3x16x16,2x3x16x16,4x3x16x16"),
    )
    return tmp_path / "out"


class Device:
    """A device with a GPU and TensorRT of `version`."""

    def __init__(self, bundle: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle = bundle
        self.cudart = fake_cudart.FakeCudart()
        self.verify: Any = load(bundle / "verify.py")
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make(version))
        monkeypatch.setattr(self.verify, "load_cudart", lambda: self.verify.Cuda(self.cudart))
        self.build(version, onnx.load(bundle / "model.onnx"))

    def build(self, version: str, model: onnx.ModelProto) -> None:
        content = fake_tensorrt.serialize(version, model)
        (self.bundle / "model.engine").write_bytes(content)

    def run(self, *arguments: str) -> int:
        status: int = self.verify.main(arguments)
        assert self.cudart.memory == {}  # all that was taken is given back
        return status


def shifted(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """`model` with the bias of its last layer moved."""
    bias = next(i for i in model.graph.initializer if i.name == model.graph.node[-1].input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(by), bias.name))
    return model


@pytest.mark.parametrize("version", VERSIONS)
def test_a_good_engine_passes(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    device = Device(bundle, version, monkeypatch)
    assert device.run("--json", str(bundle / "found.json")) == 0
    rows = json.loads((bundle / "found.json").read_text())
    assert [(row["case"], row["output"], row["passed"]) for row in rows] == [
        (case, "y", True) for case in range(3)
    ]
    assert all(float(row["sqnr_db"]) > 100 for row in rows)
    assert capsys.readouterr().out.count("good") == 3


@pytest.mark.parametrize("version", VERSIONS)
def test_a_worse_engine_does_not(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    device = Device(bundle, version, monkeypatch)
    device.build(version, shifted(onnx.load(bundle / "model.onnx"), 0.1))
    assert device.run() == 1
    assert "case 0, output y: SQNR" in (out := capsys.readouterr().out)
    assert out.count("NOT GOOD") == 3
    device.build(version, shifted(onnx.load(bundle / "model.onnx"), math.nan))
    assert device.run() == 1
    assert "SQNR -inf dB, NOT GOOD" in capsys.readouterr().out


def told(device: Device, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which it gives up."""
    capsys.readouterr()
    assert device.run() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("version", VERSIONS)
def test_what_cannot_be_tried_is_told(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    device = Device(bundle, version, monkeypatch)
    model = onnx.load(bundle / "model.onnx")
    device.build("9.9", model)
    assert (
        f"verify.py: TensorRT {version}.0 cannot load the engine: [runtime.cpp::parse] the version"
        in told(device, capsys)
    )
    device.build(version, models.one_node("Relu", 1, 4))
    assert "there is nothing for the engine's input 'x'" in told(device, capsys)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 17
    device.build(version, model)
    assert "the engine does not take 1x3x16x16 for input 'image'" in told(device, capsys)
    (bundle / "model.engine").unlink()
    assert "model.engine: No such file or directory; run build.sh" in told(device, capsys)


@pytest.mark.parametrize(
    "function", ["cudaMalloc", "cudaMemcpy", "cudaStreamCreate", "cudaDeviceSynchronize"]
)
def test_a_failure_of_cuda_is_told(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    function: str,
) -> None:
    device = Device(bundle, "10.3", monkeypatch)
    device.cudart.broken = function
    status = device.verify.main([])
    assert status == 2
    assert f"{function} fails with CUDA error 999" in capsys.readouterr().err


def test_a_missing_package_or_library_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device(bundle, "10.3", monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "TensorRT's Python package does not load" in told(device, capsys)
    fresh = load(bundle / "verify.py")

    def missing(name: str) -> object:
        raise OSError(name)

    with pytest.raises(fresh.CannotRunError, match=r"libcudart\.so, is not found"):
        fresh.load_cudart(missing)


def test_a_changed_reference_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Device(bundle, "10.3", monkeypatch)
    path = bundle / "reference" / "case1" / "output0.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "case1/output0.npy is not what it was; copy the bundle again" in told(device, capsys)
    path.unlink()
    assert "output0.npy: No such file or directory" in told(device, capsys)
    (bundle / "metadata.json").write_text("{}")
    assert "metadata.json: is not a bundle's" in told(device, capsys)


def test_agreement() -> None:
    verify: Any = load(Path(fake_tensorrt.__file__).parents[3] / VERIFY)
    one = np.array([3.0, 4.0], np.float32)
    assert verify.compare(one, one) == (math.inf, 1.0)
    # sum r^2 = 25, sum (x - r)^2 = 0.25: 20 dB
    assert verify.compare(one, one + np.float32([0.0, 0.5])).sqnr_db == pytest.approx(20.0)
    assert verify.compare(one, np.float32([3, np.nan])).sqnr_db == -math.inf
    nan = np.float32([np.nan, 1.0, np.inf])
    assert verify.compare(nan, nan) == (math.inf, 1.0)
    assert verify.compare(nan, np.float32([np.nan, 1.0, -np.inf])).sqnr_db == -math.inf
    ids = np.arange(10)
    assert verify.compare(ids, np.where(ids == 3, 0, ids)) == (None, 0.9)
    assert verify.Agreement(None, 0.9).within(40.0)
    assert not verify.Agreement(None, 0.89).within(40.0)
    assert verify.Agreement(40.0, 0.0).within(40.0)
    empty = np.zeros((0, 4), np.float32)
    assert verify.compare(empty, empty) == (math.inf, 1.0)
    zero = np.zeros(2, np.float32)
    assert verify.compare(zero, one).sqnr_db == -math.inf
    with pytest.raises(verify.CannotRunError, match="an output is"):
        verify.compare(one, one[:1])


VERIFY = "graphopt/emit/tensorrt/bundle/verify.py"
