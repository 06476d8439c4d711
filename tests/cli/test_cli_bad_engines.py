"""What is wrong with what an engine is asked of is said in one line, and nothing is left behind.

`graphopt build` ends with 2. `graphopt check` does too where it cannot answer; where its answer is
that there is no engine, it ends with 1 and says in one line why.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS / "graphopt" / "emit"))

import engine_models as models  # noqa: E402

GRAPHOPT = Path(sys.executable).with_name("graphopt")
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
OLD = b"an older engine"
TIMEOUT_S = 2

# What stands in for TensorRT-RTX, here and in child processes.
ABSENT = (
    "import importlib.util as u\nfound = u.find_spec\n"
    "u.find_spec = lambda name, *a: None if 'tensorrt' in name.split('.')[0] else found(name, *a)\n"
)
CRASH = "made.Builder.build_serialized_network = lambda *a: os.kill(os.getpid(), signal.SIGSEGV)"
HANG = "made.Builder.build_serialized_network = lambda *a: time.sleep(60)"


def nonzero() -> onnx.ModelProto:
    g = models.Graph()
    x = g.op("NonZero", g.input("x", [4, 4]), name="find")
    return g.model(g.op("Cast", x, to=onnx.TensorProto.FLOAT), [2, "n"])


def zero_point() -> onnx.ModelProto:
    g = models.Graph()
    return g.model(g.qdq(g.input("x", [1, 4]), 3), [1, 4])


def too_new() -> onnx.ModelProto:
    model = models.one_node("Relu", 1, 4)
    model.opset_import[0].version = 99
    return model


def good() -> onnx.ModelProto:
    return models.float_net(1)


def dynamic() -> onnx.ModelProto:
    return models.float_net()


@dataclass(frozen=True)
class Case:
    """Something that is wrong.

    Attributes:
        make: makes the model; None for a file that is none.
        said: what `build` must say, in this order.
        arguments: what it is given beside the model and the output.
        check: the status of `check`, and what it must say; None where it does not apply.
        fake: what is done to the module that stands in for TensorRT-RTX; None for the real one.
    """

    make: Callable[[], onnx.ModelProto] | None
    said: tuple[str, ...]
    check: tuple[int, tuple[str, ...]] | None
    arguments: tuple[str, ...] = ("--target", "sm86")
    fake: str | None = None


SHAPES_OPTION = '--shapes "image:1x3x16x16,8x3x16x16,32x3x16x16"'
CASES = {
    "garbage file": Case(
        None,
        ("m.onnx: is not an ONNX model", "export or copy it again"),
        (2, ("m.onnx: is not an ONNX model", "export or copy it again")),
    ),
    "opset too new": Case(
        too_new,
        ("m.onnx: uses opset 99, and sm86 takes 7 to 25", "set-opset{version=25}"),
        (1, ("the model: uses opset 99, and sm86 takes 7 to 25", "set-opset{version=25}")),
    ),
    "unsupported operator": Case(
        nonzero,
        ("m.onnx: ", "node 'find' [NonZero]", "replace or remove it"),
        (1, ("node 'find' [NonZero]: TensorRT-RTX does not have", "--backend tensorrt")),
    ),
    "zero point not 0": Case(
        zero_point,
        ("m.onnx: ", "node 'quantizelinear3' [QuantizeLinear]", "with zero points of 0"),
        (1, ("node 'quantizelinear3' [QuantizeLinear]", "with zero points of 0")),
    ),
    "int32 bias": Case(
        models.int32_bias,
        ("m.onnx: ", "node 'bias_dequantize' [DequantizeLinear]", "keep biases in float"),
        (1, ("node 'bias_dequantize' [DequantizeLinear]", "keep biases in float")),
    ),
    "missing profile": Case(
        dynamic,
        ("axis 0 of input 'image' (batchx3x16x16) is dynamic", SHAPES_OPTION),
        (2, ("axis 0 of input 'image' (batchx3x16x16) is dynamic", SHAPES_OPTION)),
    ),
    "profile of another size": Case(
        dynamic,
        ("shapes of 'image': axis 2 of the input is fixed at 16",),
        (2, ("shapes of 'image': axis 2 of the input is fixed at 16",)),
        ("--target", "sm86", "--shapes", "image:1x3x9x9"),
    ),
    "profile of another input": Case(
        dynamic,
        ("the model has no input 'imge'", "did you mean 'image'?"),
        (2, ("the model has no input 'imge'", "did you mean 'image'?")),
        ("--target", "sm86", "--shapes", "imge:1x3x16x16"),
    ),
    "profile that descends": Case(
        dynamic,
        ("shapes of 'image': ", "not in ascending order", "give the least"),
        (2, ("shapes of 'image': ", "not in ascending order", "give the least")),
        ("--target", "sm86", "--shapes", "image:4x3x16x16,2x3x16x16,8x3x16x16"),
    ),
    "unknown target": Case(
        good,
        ("there is no target 'jetson-orni'", "did you mean 'jetson-orin'?"),
        (2, ("there is no target 'jetson-orni'", "did you mean 'jetson-orin'?")),
        ("--target", "jetson-orni"),
    ),
    "TensorRT-RTX not installed": Case(
        good,
        ("TensorRT-RTX is not installed", "pip install 'graphopt[trt]'"),
        (0, ("nothing found, but it was not built",)),
        fake=ABSENT,
    ),
    "TensorRT not installed": Case(
        good,
        ("TensorRT is not installed", "JetPack", "--backend bundle"),
        (0, ("nothing found, but it was not built",)),
        ("--target", "jetson-orin"),
        fake=ABSENT,
    ),
    "a build that crashes": Case(
        good,
        ("m.onnx: the builder process was ended by SIGSEGV", "see what 'graphopt check' finds"),
        (1, ("the model: the builder process was ended by SIGSEGV",)),
        fake=CRASH,
    ),
    "a build that hangs": Case(
        good,
        (f"m.onnx: the build took longer than {TIMEOUT_S} s", "--timeout"),
        (1, (f"the model: the build took longer than {TIMEOUT_S} s", "--timeout")),
        ("--target", "sm86", "--timeout", str(TIMEOUT_S)),
        fake=HANG,
    ),
    "a builder that does not load": Case(
        good,
        ("the package 'tensorrt_rtx' is installed but does not load: no libnvinfer", "install it"),
        (2, ("the package 'tensorrt_rtx' is installed but does not load: no libnvinfer",)),
        fake="raise ImportError('no libnvinfer')",
    ),
}


def prepare(case: Case, folder: Path) -> dict[str, str]:
    """Writes the model, and what stands in for the builder; returns the environment to run in."""
    if case.make is None:
        (folder / "m.onnx").write_text("It was a dark and stormy night.\n" * 40)
    else:
        models.save(case.make(), folder / "m.onnx")
    (folder / "tmp").mkdir()
    packages = folder / "packages"
    packages.mkdir()
    if case.fake == ABSENT:
        (packages / "sitecustomize.py").write_text(ABSENT)
    elif case.fake is not None:
        (packages / "tensorrt_rtx.py").write_text(
            "import os, signal, sys, time\n"
            f"sys.path.append({str(TESTS / 'graphopt' / 'emit')!r})\n"
            "import fake_tensorrt\nmade = fake_tensorrt.make('11.4')\n"
            f"{case.fake}\nglobals().update(vars(made))\n"
        )
    paths = (str(packages), os.environ.get("PYTHONPATH", ""))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder / "tmp"),
    }


def run(
    command: str, case: Case, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command that must leave every file as it was, and none beside them."""
    if case.fake is None and not HAS_RTX:
        pytest.skip("TensorRT-RTX is not installed")
    environment = prepare(case, folder)
    before = content(folder)
    done = subprocess.run(
        [str(GRAPHOPT), command, "m.onnx", *arguments, *case.arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert content(folder) == before
    return done


def content(folder: Path) -> dict[Path, object]:
    """Every file and folder, but for one that ONNX Runtime, in the stand-in, leaves in TMPDIR."""
    found = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    found.pop(folder / "tmp" / ".ses", None)
    return found


def assert_says(line: str, said: tuple[str, ...]) -> None:
    at = 0
    for text in said:
        assert text in line[at:], line
        at = line.index(text, at)


# Over an older engine each, and those that fail late also where none is.
LATE = ("unsupported operator", "a build that crashes", "a build that hangs")
RUNS = [*((name, True) for name in CASES), *((name, False) for name in LATE)]


@pytest.mark.parametrize(("name", "old"), RUNS)
def test_a_build_is_refused(name: str, old: bool, tmp_path: Path) -> None:
    if old:
        (tmp_path / "m.engine").write_bytes(OLD)
    done = run("build", CASES[name], tmp_path, "-o", "m.engine")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("graphopt: ")
    assert_says(line, CASES[name].said)
    assert (tmp_path / "m.engine").exists() == old


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].check is not None])
def test_a_check_tells(name: str, tmp_path: Path) -> None:
    expected = CASES[name].check
    assert expected is not None
    done = run("check", CASES[name], tmp_path)
    assert done.returncode == expected[0], done.stdout + done.stderr
    if expected[0] == 2:
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("graphopt: ")
    else:
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        line = lines[-1]
        if expected[0] == 1:
            line = next(each for each in lines if each.startswith("error: "))
    assert_says(line, expected[1])


def test_a_good_model_is_built(tmp_path: Path) -> None:
    """The stand-in is no reason to fail."""
    case = Case(good, (), None, fake="")
    environment = prepare(case, tmp_path)
    command = [str(GRAPHOPT), "build", "m.onnx", "-o", "m.engine", "--target", "sm86"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert np.frombuffer((tmp_path / "m.engine").read_bytes(), np.uint8).size > 100
    assert {path.name for path in content(tmp_path)} == {
        *("m.onnx", "m.engine", "tmp", "packages", "tensorrt_rtx.py"),
    }
