"""`graphopt groups`: the table for people, the report for scripts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_cli import bad, graphopt

from graphopt.report.groups import TOP_GROUPS, ChannelGroup, Groups, KeptChannels, print_groups


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`m.onnx`: 4 -> 8 -> 6 -> 2 features, with a ReLU and with a CumSum over the 6."""
    random = np.random.default_rng(0)
    sizes = (4, 8, 6, 2)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), f"w{number}")
        for number, shape in enumerate(itertools.pairwise(sizes))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "second"),
        helper.make_node("CumSum", ["c", "axis"], ["d"], "running"),
        helper.make_node("MatMul", ["d", "w2"], ["y"], "third"),
    ]
    weights.append(numpy_helper.from_array(np.array(1), "axis"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", x=random.standard_normal((16, 4)).astype(np.float32))
    return tmp_path


def test_the_table_and_the_report(folder: Path) -> None:
    before = (folder / "m.onnx").read_bytes()
    done = graphopt("groups", "m.onnx", "--json", "g.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "1 groups of 8 channels; 92 MACs, 93 parameters" in done.stdout
    assert "CumSum 'running'" in done.stdout
    assert (folder / "m.onnx").read_bytes() == before
    report = json.loads((folder / "g.json").read_text())
    (group,) = report["groups"]
    weights = {
        w.name: numpy_helper.to_array(w) for w in onnx.load(folder / "m.onnx").graph.initializer
    }
    sums = np.sort(np.abs(weights["w0"]).sum(axis=0))
    assert group["made_by"] == ["first"]
    assert group["read_by"] == ["second"]
    assert (group["channels"], group["macs"], group["parameters"]) == (8, 80, 80)
    assert group["scores"]["min"] == pytest.approx(sums[0], rel=1e-6)
    assert group["scores"]["median"] == pytest.approx(np.median(sums), rel=1e-6)
    assert group["scores"]["max"] == pytest.approx(sums[-1], rel=1e-6)
    kept = {row["reason"]: (row["channels"], row["weights"]) for row in report["kept"]}
    assert kept == {
        "graph input 'x'": (4, ["w0"]),
        "CumSum 'running'": (12, ["w1", "w2"]),
        "graph output 'y'": (2, ["w2"]),
    }


def test_another_score_needs_samples(folder: Path) -> None:
    line = bad(folder, "groups", "m.onnx", "--score", "activation")
    assert "needs calibration data" in line
    arguments = ("groups", "m.onnx", "--score", "activation", "--calib", "calib.npz")
    done = graphopt(*arguments, "--json", "g.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "g.json").read_text())
    assert report["pipeline"] == "prune-channels{groups=true}"  # the pass has that score by default
    assert report["groups"][0]["scores"]["min"] > 0


def test_a_pipeline_of_ones_own(folder: Path) -> None:
    passes = "simplify,prune-channels{score=l1,exclude=[first]}"
    done = graphopt("groups", "m.onnx", "--passes", passes, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0 groups of 0 channels" in done.stdout
    assert "the option 'exclude'" in done.stdout


def test_bad_requests(folder: Path) -> None:
    assert "no such file" in bad(folder, "groups", "n.onnx")
    assert "score" in bad(folder, "groups", "m.onnx", "--score", "l7")
    assert "is both MODEL and --json" in bad(folder, "groups", "m.onnx", "--json", "m.onnx")
    assert "no pass in it cuts channels" in bad(folder, "groups", "m.onnx", "--passes", "simplify")
    line = bad(folder, "groups", "m.onnx", "--score", "l1", "--passes", "prune-channels")
    assert "has a score of its own" in line


def test_long_models_stay_readable(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(
        ChannelGroup(f"g{n}", 8, 1, (f"g{n}", "other"), (), n, 10, None) for n in range(50)
    )
    kept = (KeptChannels("Mystery 'what'", 7, ("w", "v")),)
    table = Groups("m.onnx", "prune-channels", 100, 1000, rows, kept)
    print_groups(table)
    short = capsys.readouterr().out
    assert short.index("g49 and 1 more") < short.index("g48 and 1 more")
    assert short.count(" and 1 more") == TOP_GROUPS + 1
    assert "... and 20 more groups (--all)" in short
    print_groups(table, every=True)
    whole = capsys.readouterr().out
    assert whole.count("other") == 50
    assert "--all" not in whole
