"""gpu_gate.py: without a GPU all is skipped and says why; with fake TensorRTs its logic holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "graphopt" / "emit"))

import engine_models as models  # noqa: E402
import fake_cudart  # noqa: E402
import fake_tensorrt  # noqa: E402
import gpu_gate  # noqa: E402
import gpu_gate_models  # noqa: E402
import gpu_gate_run  # noqa: E402

from graphopt.emit.tensorrt.bundle.verify import Cuda  # noqa: E402
from graphopt.emit.tensorrt.gpu import compute_capability  # noqa: E402
from graphopt.errors import GraphoptError  # noqa: E402
from graphopt.pipeline.text import parse  # noqa: E402

GPU = gpu_gate.Machine("NVIDIA Orin (nvgpu)", "8.7", "tensorrt")
PROFILE = {"image": [[1, 3, 16, 16], [8, 3, 16, 16], [32, 3, 16, 16]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One model with the variants fp32 and int8."""
    net = tmp_path / "models" / "net"
    net.mkdir(parents=True)
    images = np.random.default_rng(1).standard_normal((5, 3, 16, 16)).astype(np.float32)
    np.savez(net / "samples.npz", image=images)
    for variant in ("fp32", "int8"):
        models.save(models.float_net(), net / f"{variant}.onnx")
    return tmp_path / "models"


def job(folder: Path, version: str, **changes: object) -> dict[str, Any]:
    engine = folder / "net" / "fp32.engine"
    model = onnx.load(folder / "net" / "fp32.onnx")
    engine.write_bytes(fake_tensorrt.serialize(version, model))
    made: dict[str, Any] = {
        "engine": str(engine),
        "model": str(folder / "net" / "fp32.onnx"),
        "samples": str(folder / "net" / "samples.npz"),
        "profile": PROFILE,
        "report": None,
        "variant": "fp32",
    }
    return made | changes


def run(job: dict[str, Any], version: str, broken: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    cudart = fake_cudart.FakeCudart(broken)
    gpu_gate_run.run(job, fake_tensorrt.make(version), Cuda(cudart), found.__setitem__)
    assert broken or cudart.memory == {}
    return found


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_a_good_engine_passes(folder: Path, version: str) -> None:
    found = run(job(folder, version), version)
    assert {part: row["status"] for part, row in found.items()} == {
        "deserialize": "passed",
        "parity": "passed",
        "latency": "passed",
        "inspector": "skipped",
    }
    assert found["deserialize"]["figures"] == {"device_memory_bytes": 1 << 20}
    assert list(found["parity"]["figures"]) == ["least y", "best y", "greatest y"]
    # The stand-in's times are 2, 3 and 4 ms in turn.
    assert found["latency"]["figures"] == {"median_ms": 3, "p10_ms": 2, "p90_ms": 4, "batch": 8}


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_a_wrong_engine_fails_parity(folder: Path, version: str) -> None:
    asked = job(folder, version)
    model = onnx.load(asked["model"])
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("alpha", 1.1))
    Path(asked["engine"]).write_bytes(fake_tensorrt.serialize(version, model))
    found = run(asked, version)
    assert found["parity"]["status"] == "failed"
    assert found["parity"]["reason"] == (
        "below 40 dB: y at the least shapes, y at the best shapes, y at the greatest shapes"
    )
    assert found["latency"]["status"] == "passed"


def test_a_foreign_engine_is_not_loaded(folder: Path) -> None:
    found = run(job(folder, "10.3"), "11.4")
    assert list(found) == ["deserialize"]
    assert found["deserialize"]["status"] == "failed"
    assert "TensorRT 11.4.0 cannot load the engine" in found["deserialize"]["reason"]


def test_a_failure_of_cuda_is_a_failure_of_the_part(folder: Path) -> None:
    found = run(job(folder, "10.3"), "10.3", broken="cudaEventRecord")
    assert found["latency"]["reason"] == "cudaEventRecord fails with CUDA error 999"
    assert found["parity"]["status"] == "passed"


def test_real_inputs_at_each_shape(folder: Path) -> None:
    samples = str(folder / "net" / "samples.npz")
    images = np.load(samples)["image"]
    feeds = dict(gpu_gate_run.feeds_of(samples, PROFILE))
    assert [feed["image"].shape[0] for feed in feeds.values()] == [1, 8, 32]
    np.testing.assert_array_equal(feeds["best"]["image"][5:], images[:3])
    ((label, static),) = gpu_gate_run.feeds_of(samples, {})
    assert (label, static["image"].shape[0]) == ("best", 1)


LAYERS = [
    {
        "Name": "a",
        "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel Int8 format"}],
        "Metadata": "[ONNX Layer: conv1]\x1f[ONNX Layer: relu1]",
    },
    {
        "Name": "b",
        "Inputs": [{"Name": "z", "Datatype": "Half", "Format": "NHWC"}],
        "Metadata": "[ONNX Layer: fc]",
    },
    {"Name": "c", "Inputs": [], "Metadata": ""},
    "only a name",
]


def test_the_types_of_nodes_are_read() -> None:
    assert gpu_gate_run.node_types(LAYERS) == {"conv1": {"int8"}, "relu1": {"int8"}, "fc": {"fp16"}}


@pytest.mark.parametrize(
    ("precision", "status", "reason"),
    [
        ("int8", "passed", ""),
        ("fp32", "failed", "other types than on the CPU: conv1 int8, not fp32"),
    ],
)
def test_the_inspector_is_held_to_the_cpus_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str, status: str, reason: str
) -> None:
    monkeypatch.setattr(
        fake_tensorrt, "inspect", lambda version, model: json.dumps({"Layers": LAYERS})
    )
    report = folder / "net" / "fp32.json"
    nodes = [
        {"name": "conv1", "op_type": "Conv", "precision": precision},
        {"name": "elsewhere", "op_type": "Conv", "precision": "int8"},
        {"name": "folded", "op_type": "Conv", "precision": None},
    ]
    report.write_text(json.dumps({"compute_nodes": nodes}))
    found = run(job(folder, "11.4", report=str(report)), "11.4")["inspector"]
    assert (found["status"], found["reason"]) == (status, reason)
    assert found["figures"] == {
        **{"layers": 4, "nodes": 2, "found": 1},
        "same_type": int(status == "passed"),
    }


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (gpu_gate.Machine(None, None, "tensorrt"), "there is no GPU here"),
        (gpu_gate.Machine("H100", "9.0", None), "none of tensorrt, tensorrt_rtx is installed"),
    ],
)
def test_what_cannot_run_is_skipped_with_the_reason(
    folder: Path,
    tmp_path: Path,
    machine: gpu_gate.Machine,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "found.json"
    arguments = [str(folder), "--json", str(out), "--docs", str(tmp_path / "docs")]
    assert gpu_gate.main(arguments, lambda: machine) == 0
    parts = json.loads(out.read_text())["parts"]
    assert len(parts) == len(gpu_gate.VARIANTS) * len(gpu_gate.PARTS)
    assert {part["status"] for part in parts} == {"skipped"}
    for part in parts:
        present = part["variant"] in ("fp32", "int8")
        assert part["reason"].startswith(reason if present else "there is no")
    assert capsys.readouterr().out.count("skipped ") == len(parts)
    # A record in the documentation is of a GPU.
    assert (tmp_path / "docs").exists() == (machine.gpu is not None)


def test_this_machine_has_no_gpu() -> None:
    def missing(name: str) -> object:
        raise OSError(name)

    machine = gpu_gate.find_machine(missing)
    assert (machine.gpu, machine.capability) == (None, None)
    assert "there is no GPU here" in (machine.missing() or "")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `tensorrt`, here and in child processes; its file."""
    package = tmp_path / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import fake_tensorrt\nglobals().update(vars(fake_tensorrt.make('10.3')))\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(gpu_gate, "VARIANTS", ("fp32",))
    return package / "__init__.py"


def statuses(folder: Path, work: Path) -> dict[str, tuple[str, str]]:
    work.mkdir()
    parts = gpu_gate.gate(folder, GPU, work)
    return {part.part: (part.status, part.reason) for part in parts}


def test_an_engine_is_built_and_nothing_passes_without_cuda(
    folder: Path, tmp_path: Path, installed: Path
) -> None:
    if compute_capability() is not None:
        pytest.skip("there is a GPU here")
    found = statuses(folder, tmp_path / "work")
    assert found.pop("build") == ("passed", "")
    assert {status for status, _ in found.values()} <= {"skipped", "failed"}
    # With the library but no driver the first call of it fails.
    assert re.search(r"libcudart\.so, is not found|fails with CUDA error", found["deserialize"][1])


def test_a_build_that_fails_leaves_nothing_to_run(
    folder: Path, tmp_path: Path, installed: Path
) -> None:
    installed.write_text("raise ImportError('libnvinfer.so.10')\n")
    found = statuses(folder, tmp_path / "work")
    assert found["build"][0] == "failed"
    assert "does not load: libnvinfer.so.10" in found["build"][1]
    assert found["parity"] == ("skipped", "there is no engine")


def test_a_crash_costs_one_part(
    folder: Path, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "crash.py"
    program.write_text(
        "import json, os, sys\njob = json.load(open(sys.argv[1]))\n"
        "row = {'status': 'passed', 'reason': '', 'figures': {}}\n"
        "json.dump({'deserialize': row}, open(job['found'], 'w'))\nos.abort()\n"
    )
    monkeypatch.setattr(gpu_gate.gate_run, "__file__", str(program))
    found = statuses(folder, tmp_path / "work")
    assert found["deserialize"] == ("passed", "")
    assert found["parity"] == ("failed", "ended with status -6: no last words")
    assert found["latency"] == ("skipped", "the engine did not get here")


def test_wheels_are_importable_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(GraphoptError, match="holds no wheel files"):
        gpu_gate.unpack_wheels(tmp_path, tmp_path / "unpacked")
    with zipfile.ZipFile(tmp_path / "fake_rtx-1.7-py3-none-any.whl", "w") as wheel:
        wheel.writestr("fake_rtx_of_a_wheel/__init__.py", "value = 7\n")
    gpu_gate.unpack_wheels(tmp_path, tmp_path / "unpacked")
    import fake_rtx_of_a_wheel  # type: ignore[import-not-found]

    assert fake_rtx_of_a_wheel.value == 7


def test_it_says_what_is_wrong_with_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_gate.main([str(tmp_path)], lambda: GPU) == 2
    assert "holds no folder with a samples.npz; see gpu_gate_models.py" in capsys.readouterr().err


def test_it_needs_nothing_but_what_it_is_given() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tools'); import gpu_gate, graphopt.emit.tensorrt._child; "
        "from graphopt.emit.tensorrt import builder; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'onnx_ir', 'click', 'rich', 'joblib', 'onnx_graphsurgeon', 'torch'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS.parent,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"onnx_ir", "click", "rich", "joblib", "onnx_graphsurgeon"}:
            raise ModuleNotFoundError(f"{name} is not given")
sys.meta_path.insert(0, Blocked())
"""
RUN = """
import sys; sys.path.insert(0, "tools")
import pathlib, gpu_gate
gpu_gate.VARIANTS = ("fp32",)
machine = gpu_gate.Machine("Orin", "8.7", "tensorrt")
for part in gpu_gate.gate(*map(pathlib.Path, sys.argv[1:2]), machine, pathlib.Path(sys.argv[2])):
    print(part.part, part.status, part.reason)
"""


def test_it_builds_with_nothing_but_what_it_is_given(
    folder: Path, tmp_path: Path, installed: Path
) -> None:
    packages = installed.parents[1]
    (packages / "sitecustomize.py").write_text(BLOCKED)
    (tmp_path / "work").mkdir()
    paths = map(str, (packages, TESTS / "graphopt" / "emit", TESTS.parent))
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(tmp_path / "work")],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    build, deserialize, *_ = done.stdout.splitlines()
    assert build == "build passed "
    # It gets as far as it can without a GPU.
    assert re.search(r"libcudart|CUDA error|passed", deserialize), deserialize


def test_each_variant_is_what_its_name_says() -> None:
    pipelines = gpu_gate_models.PIPELINES
    assert tuple(pipelines) == gpu_gate.VARIANTS
    steps = {name: str(parse(text)) for name, text in pipelines.items()}
    cast, quantized, pruned = "cast-precision", "quantize", "prune-channels{ratio=0.3}"
    assert {name for name in steps if cast in steps[name]} == {"fp16", "int8", "pruned"}
    assert {name for name in steps if quantized in steps[name]} == {"int8", "pruned"}
    assert {name for name in steps if pruned in steps[name]} == {"pruned"}


def test_the_models_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_gate_models, "PIPELINES", {"fp32": "lossless", "fp16": "no-such-pass"})
    fixture = gpu_gate_models.FIXTURES / "mobilenet.onnx"
    data = str(gpu_gate_models.FIXTURES / "calib.npz")
    missing = gpu_gate_models.make(fixture, data, tmp_path, "sm86")
    assert any("mobilenet/fp16: it is left out" in line for line in missing)
    made = {path.name for path in (tmp_path / "mobilenet").iterdir()}
    assert {"samples.npz", "fp32.onnx"} <= made <= {"samples.npz", "fp32.onnx", "fp32.json"}
    assert len(np.load(tmp_path / "mobilenet" / "samples.npz")["image"]) == 32
