"""`graphopt sensitivity`, and what `graphopt optimize` does when a search misses its goal."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import MLP, proto
from test_cli import bad, graphopt

from graphopt.report.model import LayerSensitivity, Sensitivity
from graphopt.report.plot import ROW, to_svg

SVG = "{http://www.w3.org/2000/svg}"
COMMAND = ("sensitivity", "m.onnx", "--calib", "calib.npz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(proto(MLP), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    np.savez(tmp_path / "calib.npz", x=x)
    np.savez(tmp_path / "eval.npz", x=x, labels=np.arange(40) % 2)
    return tmp_path


def test_the_table_the_report_and_the_plot(folder: Path) -> None:
    done = graphopt(*COMMAND, "--json", "r.json", "--plot", "p.svg", cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "r.json").read_text())
    assert report["pipeline"] == "quantize{sensitivity=true}"
    assert report["samples"] == 10
    assert report["data"] == "a quarter of calib.npz (40 samples)"
    rows = report["layers"]
    assert len(rows) == 2
    assert {row["precision"] for row in rows} == {"int8"}
    assert all(10 < row["sqnr_db"] < 100 for row in rows)
    assert sum(row["macs"] for row in rows) == 18
    shown = [float(cell) for cell in re.findall(r"│ +(-?\d+\.\d) │", done.stdout)]
    assert shown == sorted(round(row["sqnr_db"], 1) for row in rows)
    assert "█" * 20 in done.stdout
    assert "all layers quantized" in done.stdout
    root = ET.parse(folder / "p.svg").getroot()
    words = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert {f"{row['sqnr_db']:.1f}" for row in rows} <= set(words)
    assert any("dB" in word for word in words)


def test_a_search_shows_what_it_chose(folder: Path) -> None:
    full = graphopt(*COMMAND, "--json", "r.json", cwd=folder)
    assert full.returncode == 0
    report = json.loads((folder / "r.json").read_text())
    goal = report["everywhere_db"] + 0.5
    search = ("--passes", f"simplify,quantize{{min_sqnr={goal}}}", "--json", "s.json")
    done = graphopt(*COMMAND, *search, "--plot", "p.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "s.json").read_text())
    (kept,) = [row for row in found["layers"] if row["precision"] == "float"]
    assert kept["sqnr_db"] == min(row["sqnr_db"] for row in found["layers"])
    assert "left in float" in done.stdout
    page = (folder / "p.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "stays float" in page
    missed = graphopt(*COMMAND, "--passes", "quantize{min_sqnr=300}", cwd=folder)
    assert missed.returncode == 1
    assert "not reached: no choice of layers reaches min_sqnr=300" in missed.stdout


def test_a_score_can_choose(folder: Path) -> None:
    done = graphopt(
        *COMMAND, "--passes", "quantize{max_drop=100}", "--eval", "eval.npz", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "0 of 2 layers in float, top1" in done.stdout
    line = bad(folder, *COMMAND, "--passes", "quantize{max_drop=1}")
    assert "needs an evaluation" in line


def test_a_goal_that_is_missed_is_an_exit_status_with_the_best_found(folder: Path) -> None:
    arguments = (
        "optimize", "m.onnx", "-o", "out.onnx", "--calib", "calib.npz", "--json", "r.json",
        "--passes", "simplify,quantize{min_sqnr=300}",
    )  # fmt: skip
    done = graphopt(*arguments, cwd=folder)
    assert done.returncode == 1, done.stderr
    assert "wrote out.onnx" in done.stdout
    assert "not reached by quantize{min_sqnr=300.0}: no choice of layers reaches" in done.stdout
    written = onnx.load(folder / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert sum(node.op_type == "QuantizeLinear" for node in written.graph.node) == 1
    report = json.loads((folder / "r.json").read_text())
    assert report["output"] == "out.onnx"
    assert len(report["unmet"]) == 1
    assert report["steps"][-1]["details"]["search"]["met"] is False
    met = graphopt(*arguments[:-1], "simplify,quantize{min_sqnr=10}", cwd=folder)
    assert met.returncode == 0
    assert "not reached" not in met.stdout
    assert json.loads((folder / "r.json").read_text())["unmet"] == []


def test_bad_requests(folder: Path) -> None:
    assert "an .svg or .html file" in bad(folder, *COMMAND, "--plot", "p.png")
    assert "is both --json and --plot" in bad(
        folder, *COMMAND, "--json", "p.svg", "--plot", "p.svg"
    )
    assert "is both MODEL and --json" in bad(folder, *COMMAND, "--json", "m.onnx")
    assert "no pass in it quantizes" in bad(folder, *COMMAND, "--passes", "simplify")
    line = bad(folder, *COMMAND, "--passes", "quantize{exclude=[MatMul,Gemm]}")
    assert "finds nothing to quantize" in line
    assert "no such file" in bad(folder, "sensitivity", "n.onnx", "--calib", "calib.npz")


def drawn(layers: list[LayerSensitivity], everywhere: float = 20.0) -> ET.Element:
    return ET.fromstring(
        to_svg(Sensitivity("m.onnx", "quantize", "generic", "c", "c", 8, everywhere, tuple(layers)))
    )


def bars(root: ET.Element) -> Iterator[tuple[str, dict[str, str], float]]:
    """The label, the rectangle and the place of the figure of each bar."""
    for group in root.iter(f"{SVG}g"):
        label, figure = group.findall(f"{SVG}text")
        bar = group.find(f"{SVG}rect")
        assert bar is not None
        yield str(label.text), bar.attrib, float(figure.attrib["x"])


def test_a_plot_of_many_layers_is_legible() -> None:
    names = [f"/model/encoder/layer.{i}/attention/self/query/MatMul" * 2 for i in range(60)]
    layers = [LayerSensitivity(n, "MatMul", 10, 20.0 + i, "int8") for i, n in enumerate(names)]
    root = drawn(layers)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    places = [float(bar["y"]) for _, bar, _ in bars(root)]
    assert np.diff(places).tolist() == [ROW] * 59
    assert places[-1] + ROW < height
    assert all(figure < width - 20 for _, _, figure in bars(root))
    assert all(len(label) <= 60 and label.endswith("MatMul") for label, _, _ in bars(root))
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert all(name in title for name, title in zip(names, titles, strict=True))
    lengths = [float(bar["width"]) for _, bar, _ in bars(root)]
    assert lengths == sorted(lengths)
    assert lengths[-1] / lengths[0] == pytest.approx(79 / 20, abs=0.01)


def test_a_plot_of_odd_figures_and_names() -> None:
    layers = [
        LayerSensitivity("a <b> & \x00", "Conv", None, -np.inf, "float"),
        LayerSensitivity("\ud800", "Conv", 5, np.inf, "int8"),
        LayerSensitivity("c", "Gemm", 5, -7.0, "int8"),
        LayerSensitivity("d", "Gemm", 5, 0.0, "int8"),
    ]
    widths = {label: float(bar["width"]) for label, bar, _ in bars(drawn(layers, -np.inf))}
    assert list(widths) == ["a <b> & \ufffd (Conv)", "\ufffd (Conv)", "c (Gemm)", "d (Gemm)"]
    assert widths["a <b> & \ufffd (Conv)"] >= widths["c (Gemm)"] > widths["d (Gemm)"] == 0
    assert widths["\ufffd (Conv)"] > 0
    assert "inf" in ET.tostring(drawn(layers[1:2], np.inf), "unicode")
    assert list(bars(drawn([]))) == []
