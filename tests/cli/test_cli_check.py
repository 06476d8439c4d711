"""`graphopt check`: what it prints, and how it exits."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

GRAPHOPT = Path(sys.executable).with_name("graphopt")
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"
)


def check(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(GRAPHOPT), "check", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def save(path: Path, operator: str, opset: int = 19) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    node = helper.make_node(operator, ["x"], ["y"], name="only")
    graph = helper.make_graph([node], "g", [x], [y])
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


@needs_rtx
def test_a_model_that_builds_exits_with_0(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", "Relu")
    done = check("m.onnx", "--target", "sm86", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "it builds: " in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["passed"] is True
    assert [stage["outcome"] for stage in report["stages"]] == ["passed"] * 3
    assert report["engine"]["kernels"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "r.json"]


def test_a_model_that_does_not_exits_with_1(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", "Bernoulli")
    done = check("m.onnx", "--target", "sm86", "--json", "r.json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("error")] == [
        "error: node 'only' [Bernoulli]: TensorRT does not have this operator; "
        "draw random numbers outside the model and make them an input"
    ]
    assert lines[-1] == "no engine: 1 error"
    (finding,) = json.loads((tmp_path / "r.json").read_text())["findings"]
    assert (finding["node"], finding["operator"]) == ("only", "Bernoulli")
    assert (finding["lacking"], finding["is_error"]) == ("TensorRT", True)


def test_an_opset_that_is_too_new_exits_with_1(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", "Relu", opset=99)
    done = check("m.onnx", "--target", "sm86", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "error: the model: uses opset 99, and sm86 takes 7 to 25" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text.onnx", "--target", "sm86"), "text.onnx: is not an ONNX model"),
        (("absent.onnx", "--target", "sm86"), "absent.onnx: no such file"),
        (("m.onnx", "--target", "jetson-orrin"), "did you mean 'jetson-orin'?"),
        (("m.onnx", "--target", "generic"), "there are no engines for target 'generic'"),
        (("m.onnx", "--target", "sm86", "--shapes", "z=4"), "the model has no input 'z'"),
    ],
)
def test_bad_input_is_one_line_and_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    save(tmp_path / "m.onnx", "Relu")
    (tmp_path / "text.onnx").write_text("It was a dark and stormy night.\n" * 40)
    done = check(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("graphopt: ")
    assert message in line
