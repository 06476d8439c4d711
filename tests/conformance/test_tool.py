"""tools/conformance.py: what hangs or dies is charged to its model, and the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conformance import main
from conformance_cases import Case, make_probe
from conformance_check import io_change
from conformance_engines import difference
from conformance_pool import Settings, Task, run_tasks

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Neg (x) }'


def task(text: str = TEXT, name: str = "neg") -> Task:
    model = onnx.parser.parse_model(text)
    return Task(Case("node", name, model.SerializeToString(), ((np.ones(2, "f"),),)), "as-is")


def pipeline(function: str) -> Settings:
    return Settings(f"graphsurgeon{{function=careless.rewriters:{function}}}", False, None)


def test_a_hang_is_charged_to_its_model_and_the_next_one_runs() -> None:
    rows = list(run_tasks([task(name="a"), task(name="b")], pipeline("hang"), jobs=1, limit=2))
    assert [(row.name, row.status) for row in rows] == [("a", "crash"), ("b", "crash")]
    assert rows[0].detail == "it took over 2 s, at stage 'optimize'"
    assert 2 <= rows[0].seconds < 60


def test_a_segmentation_fault_is_charged_to_its_model() -> None:
    (row,) = run_tasks([task()], pipeline("die"), jobs=2, limit=60)
    assert (row.status, row.detail) == (
        "crash",
        "the process died of signal 11, at stage 'optimize'",
    )


def test_a_run_over_a_few_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "node/test_add_*int*", "--jobs", "1", "--json", str(tmp_path / "a.json")]
    assert main([*arguments, "--form", "constant-inputs"]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["status"] for row in rows] == ["ok"] * 6
    assert all(row["modified"] for row in rows)
    out = capsys.readouterr().out
    assert [line.split()[:3] for line in out.splitlines()[1:2]] == [
        ["node", "constant-inputs", "6"]
    ]
    assert "test_resnet50" in out


def test_what_is_bad_is_told_kept_and_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "graphsurgeon{function=careless.rewriters:swap_outputs}"
    arguments = ["--passes", text, "--only", "test_top_k", "--form", "as-is", "--once"]
    assert main([*arguments, "--keep", str(tmp_path / "bad"), "--jobs", "1"]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("io-changed: node/test_top_k [as-is]: ")
    names = ["node.test_top_k.as-is.onnx", "node.test_top_k.as-is.result.onnx"]
    assert sorted(path.name for path in (tmp_path / "bad").iterdir()) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--passes", "no-such-pass"], "there is no pass 'no-such-pass'"),
        (["--passes", "quantize"], "pass 'quantize': needs calibration data"),
        (["--only", "no_such_model"], "no model is called 'no_such_model'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("conformance: ")
    assert message in error


def test_forms() -> None:
    case = Case(
        "node",
        "two",
        onnx.parser.parse_model(
            '<ir_version: 3, opset_import: ["" : 8]> g (float[2] x, float[2] z, '
            "float[2] w = {1, 2}) => (float[2] y) { a = Mul (x, z) y = Add (a, w) }"
        ).SerializeToString(),
        ((np.ones(2, "f"), np.ones(2, "f") * 3),),
    )
    found = {}
    for form in ("as-is", "constant-inputs", "all-but-first", "defaults", "dynamic"):
        probe = make_probe(case, form)
        assert probe is not None
        graph = probe.proto.graph
        inputs, weights = [v.name for v in graph.input], sorted(t.name for t in graph.initializer)
        found[form] = (inputs, weights, sorted(probe.feeds[0]), probe.proto.ir_version)
    assert found == {
        "as-is": (["x", "z", "w"], ["w"], ["x", "z"], 3),
        "constant-inputs": ([], ["w", "x", "z"], [], 4),
        "all-but-first": (["x"], ["w", "z"], ["x"], 4),
        "defaults": (["x", "z", "w"], ["w", "x", "z"], ["w", "x", "z"], 4),
        "dynamic": (["x", "z", "w"], ["w"], ["x", "z"], 3),
    }
    probe = make_probe(case, "dynamic")
    assert probe is not None
    assert [v.type.tensor_type.shape.dim[0].dim_param for v in probe.proto.graph.input] == [
        "d0_0",
        "d1_0",
        "",
    ]


IO = """<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "me">
g (float[N] x, float[2] u) => (float[N] y, float[] z)
{ y = local.f (x) z = ReduceSum <keepdims = 0> (x) }
<domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Neg (a) }"""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("float[N] y", "float[3] y", None),
        ("float[N] y", "float[M] y", "output 'y'"),
        ("float[N] y", "float y", "output 'y'"),
        ("float[N] y", "double[N] y", "output 'y'"),
        ("float[N] x", "float[3] x", "input 'x'"),
        (", float[2] u)", ")", "inputs ['x', 'u']"),
        ("(float[N] x, float[2] u)", "(float[2] u, float[N] x)", "inputs ['x', 'u']"),
        ('producer_name: "me"', 'producer_name: "you"', "producer_name"),
        ("ir_version: 8", "ir_version: 9", "ir_version"),
        ('"" : 17, "local"', '"" : 18, "local"', "opset imports"),
        ('"local" : 1', '"local" : 1, "who" : 1', "opset imports"),
        (" f (a) => (b) { b = Neg (a) }", " f (c) => (b) { b = Neg (c) }", "function"),
        ("\ng (", "\nh (", "the graph's name"),
        ("{ b = Neg (a) }", "{ c = Neg (a) b = Identity (c) }", None),
    ],
)
def test_what_a_caller_would_notice(before: str, after: str, told: str | None) -> None:
    text = IO.replace("float[] z", "float z")
    assert before in text
    change = io_change(
        onnx.parser.parse_model(text), onnx.parser.parse_model(text.replace(before, after))
    )
    assert change is None if told is None else change is not None and told in change


def test_the_comparison_sees_a_difference() -> None:
    one = np.array([1.0, np.nan, 2.0], np.float32)
    near = np.nextafter(one, np.float32(3))

    def told(expected: object, actual: object, limit: float | None = 0.0) -> str | None:
        return difference(["y"], [[expected]], [[actual]], limit)

    assert told(one, one.copy()) is None
    assert "not to the bit: y" in str(told(one, near))
    assert told(one, near, None) is None
    assert "1e-05" in str(told(one, one + 1e-3, None))
    assert "only in the bits" in str(
        told(np.array([0.0], np.float32), np.array([-0.0], np.float32))
    )
    assert "float64" in str(told(one, one.astype(np.float64)))
    assert "[3, 1]" in str(told(one, one.reshape(3, 1), None))
    assert told([one], [one, one]) is not None
    assert told([one], [one]) is None
    assert told(np.array(["a"], object), np.array(["b"], object)) is not None
    assert told(np.array([1], np.int32), np.array([2], np.int32), None) is not None
    assert told(one, np.array([1.0, 5.0, 2.0], np.float32), None) is not None
    assert told(None, None) is None
    assert told(None, one) is not None
