"""graphopt build: bundles, options, and every mistake as one line with status 2."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

GRAPHOPT = Path(sys.executable).with_name("graphopt")
TESTS = Path(__file__).parents[1]
HERE_X86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT-RTX is made for x86-64 machines only"
)


def graphopt(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(GRAPHOPT), "build", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def net(*dims: int | str) -> onnx.ModelProto:
    """A Conv and a Relu on the input x of shape `dims`."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("Relu", ["c"], ["y"], name="relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [dims[0], 4, None, None])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(net("n", 3, 8, 8), tmp_path / "m.onnx")
    onnx.save(net(1, 3, 8, 8), tmp_path / "static.onnx")
    onnx.save(net("n", 3, "h", "w"), tmp_path / "free.onnx")
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=images)
    (tmp_path / "old.engine").write_text("precious")
    return tmp_path


def bad(folder: Path, *arguments: object, **env: str) -> str:
    """Runs a build that must fail with 2, one line, and no file touched; the line."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = graphopt("-o", "old.engine", *arguments, cwd=folder, **env)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("graphopt: ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return lines[0].removeprefix("graphopt: ")


def test_a_bundle(folder: Path) -> None:
    done = graphopt(
        *("m.onnx", "-o", "jetson", "--target", "jetson-orin-nano", "--backend", "bundle"),
        *("--data", "calib.npz", "--shapes", "x:1x3x8x8,2x3x8x8,4x3x8x8"),
        *("--workspace", 512, "--sparsity", "--json", "report.json"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "input x: 1x3x8x8 to 4x3x8x8, best at 2x3x8x8" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert report["backend"] == "bundle"
    assert (report["kernels"], report["weight_bytes"]) == (None, None)
    metadata = json.loads((folder / "jetson" / "metadata.json").read_text())
    assert metadata["options"]["workspace_bytes"] == 512 << 20
    assert len(metadata["reference"]["cases"]) == 3
    assert "sparsity=1\n" in (folder / "jetson" / "build.sh").read_text()


def test_a_bundle_of_noise_warns(folder: Path) -> None:
    done = graphopt(
        *("static.onnx", "-o", "jetson", "--target", "jetson-orin-nano", "--backend", "bundle"),
        cwd=folder,
    )
    assert done.returncode == 0
    assert done.stderr == ("warning: the reference inputs are noise; give real ones with --data\n")


ORIN = ("--target", "jetson-orin", "--backend", "bundle", "-o", "jetson")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        # No profile, and wrong ones.
        (
            ("free.onnx", *ORIN),
            "axis 0 of input 'x' (nx3xhxw) is dynamic, its size unknown; give its least, optimal "
            'and greatest shape with --shapes "x:1x3xhxw,8x3xhxw,32x3xhxw"',
        ),
        (("m.onnx", *ORIN, "--shapes", "x:1x3x9x9"), "shapes of 'x': axis 2 of the input is fixed"),
        (("m.onnx", *ORIN, "--shapes", "x:4x3x8x8,2x3x8x8,8x3x8x8"), "not in ascending order"),
        (("m.onnx", *ORIN, "--shapes", "x:1x3x8"), "the input has 4 dimensions"),
        (("m.onnx", *ORIN, "--shapes", "z:1x3x8x8"), "has no input 'z'"),
        (("m.onnx", *ORIN, "--shapes", "x:one"), "cannot read 'x:one'; write it as image:1x3"),
        (("m.onnx", *ORIN), '--shapes "x:1x3x8x8,8x3x8x8,32x3x8x8"'),
        # Targets and backends.
        (("m.onnx", "--target", "jetson-orni"), "did you mean 'jetson-orin'"),
        (("static.onnx", "--target", "sm86", "--backend", "bundel"), "did you mean 'bundle'?"),
        (("static.onnx", "--target", "onnxruntime-cpu", "--backend", "bundle"), "cannot build for"),
        # Options that do not go together.
        (
            ("static.onnx", *ORIN, "--kernels", "--timeout", "9"),
            "--kernels, --timeout does nothing with backend 'bundle'; leave it out",
        ),
        (("static.onnx", *ORIN, "--gpu-fallback"), "give --dla-core"),
        (
            ("static.onnx", *ORIN, "--dla-core", "5"),
            "there is no DLA core 5 in jetson-orin; choose one below 2",
        ),
        (
            ("m.onnx", *ORIN, "--shapes", "x:1x3x8x8,8x3x8x8,9x3x8x8", "--dla-core", "0"),
            'give one: --shapes "x:8x3x8x8"',
        ),
        (
            ("static.onnx", "--target", "jetson-thor", "--backend", "bundle", "--dla-core", "0"),
            "jetson-thor has no DLA; leave out --dla-core; these have: jetson-xavier, jetson-orin",
        ),
        (
            (
                "static.onnx",
                "--target",
                "jetson-orin-nano",
                "--backend",
                "bundle",
                "--dla-core",
                "0",
            ),
            "jetson-orin-nano has no DLA",
        ),
        (("static.onnx", *ORIN, "--data", "nowhere.npz"), "nowhere.npz: no such file"),
        (("static.onnx", *ORIN, "-o", "old.engine"), "old.engine: is not a folder"),
    ],
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], line: str) -> None:
    assert line in bad(folder, *arguments)


@HERE_X86
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("static.onnx", "--sparsity"), "--sparsity does nothing with backend 'rtx-aot'"),
        (("static.onnx", "--data", "calib.npz"), "backend 'rtx-aot' takes no samples"),
        (("static.onnx", "--timeout", "0.05"), "took longer than 0.05 s and was stopped"),
    ],
)
def test_mistakes_with_tensorrt_rtx(folder: Path, arguments: tuple[str, ...], line: str) -> None:
    assert line in bad(folder, *arguments, "--target", "sm86", "--backend", "rtx-aot")


@HERE_X86
def test_a_profile_as_trtexec_writes_it(folder: Path) -> None:
    done = graphopt(
        *("m.onnx", "-o", "e", "--target", "sm86", "--shapes", "x:1x3x8x8,2x3x8x8,4x3x8x8"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "e").stat().st_size > 1000


def with_tensorrt(folder: Path, text: str) -> str:
    """A PYTHONPATH on which a package `tensorrt` is that runs `text` after it is made."""
    package = folder / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import fake_tensorrt, os, signal, time\nmade = fake_tensorrt.make('10.3')\n"
        f"{text}\nglobals().update(vars(made))\n"
    )
    paths = [str(package.parent), str(TESTS / "graphopt" / "emit"), os.environ.get("PYTHONPATH")]
    return os.pathsep.join(path for path in paths if path)


def test_an_option_that_this_tensorrt_lacks(folder: Path) -> None:
    path = with_tensorrt(folder, "del made.BuilderFlag")
    arguments = ("static.onnx", "--target", "tensorrt", "--refit")
    line = "TensorRT 10.3.0 has no BuilderFlag.REFIT; leave out --refit"
    assert line in bad(folder, *arguments, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
