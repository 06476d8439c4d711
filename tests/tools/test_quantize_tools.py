"""bench_quantize.py: what it measures, and what it says of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_quantize
import numpy as np
import pytest
import quantize_report as report
import quantize_tasks
from quantize_tasks import agreement, iou, top1

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(autouse=True)
def _without_the_full_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_tasks, "FASHION", Path("/nowhere"))


def run(module: object, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments)])
    return int(module.main())  # type: ignore[attr-defined]


def test_scores() -> None:
    outputs = np.array([[1, 2], [4, 3], [0, 1], [0, 1]], np.float32)
    assert top1(outputs, np.array([1, 0, 0, 1])) == 75
    assert agreement("top1", outputs, outputs[:, ::-1]) == 0
    maps = np.array([[[0.9, 0.2], [0.4, 0.1]]], np.float32)
    assert iou(maps[:, None], np.array([[[1, 1], [0, 0]]], np.uint8)) == pytest.approx(100 / 3)
    assert agreement("iou", maps[:, None], maps[:, None] / 2) == 50


def test_decibels() -> None:
    signal = np.full(8, 2, np.float32)
    assert bench_quantize.decibels(signal, signal) == np.inf
    assert bench_quantize.decibels(signal, signal * 0.9) == pytest.approx(20, abs=1e-5)


def test_the_best_peer_is_one_that_builds_in_integers() -> None:
    def row(sqnr: float, **nodes: int) -> dict[str, object]:
        return {"sqnr_db": sqnr, "score": 90.0, "engine": {"nodes": nodes} if nodes else {}}

    results = {
        "graphopt": row(40, int8=3),
        "a": row(30, int8=3),
        "b": row(50, fp32=3),
        "c": row(60),
        "e": row(70, int8=1, fp32=2),
        "d": {"failure": "timeout after 1 s"},
    }
    task = {"task": "t", "score": 90.5, "results": results}
    assert report.best_peer(task) == ("a", 30)
    assert report.verdicts(task) == ["t: graphopt -0.50 points, +10.0 dB over the best peer (a)"]
    assert report.cells("d", results["d"], task, report.COLUMNS)[-1] == "timeout after 1 s"


def test_the_bench_measures_each_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, page = tmp_path / "found.json", tmp_path / "page.md"
    options = ["--tasks", "resnet", "--no-build", "--samples", 16, "--evaluate", 200]
    files = ["--json", found, "--write", page]
    absent = ["--python", f"nncf={tmp_path / 'python'}"]
    tools = ["--tools", "graphopt,ort-minmax,nncf-plain"]
    assert run(bench_quantize, monkeypatch, tmp_path, *options, *tools, *absent, *files) == 0
    assert "left out: nncf" in capsys.readouterr().err
    (task,) = json.loads(found.read_text())["tasks"]
    assert list(task["results"]) == ["graphopt", "ort-minmax"]
    assert task["samples"] == 200
    for row in task["results"].values():
        assert abs(row["score"] - task["score"]) <= 2
        assert row["sqnr_db"] > 25
        assert row["bytes"] < task["bytes"] / 3
        assert 0 < row["added_mib"] < row["peak_mib"]
    assert task["results"]["graphopt"]["sqnr_db"] > task["results"]["ort-minmax"]["sqnr_db"]
    assert "| graphopt | " in page.read_text()


def test_a_failure_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tmp_path / "found.json"
    options = ["--tasks", "resnet", "--no-build", "--evaluate", 50, "--tools", ""]
    pipeline = ["--pipeline", "bad=quantize{exclude=nothing}"]
    assert run(bench_quantize, monkeypatch, tmp_path, *options, *pipeline, "--json", found) == 1
    (task,) = json.loads(found.read_text())["tasks"]
    assert "no node or operator is called 'nothing'" in task["results"]["graphopt bad"]["failure"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tools", "ort-best"], "unknown tool: ort-best"), (["--tasks", "x"], "unknown task: x")],
)
def test_mistakes_are_told(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=message):
        run(bench_quantize, monkeypatch, tmp_path, *arguments)


def test_what_is_drawn_and_made_is_the_same_each_time() -> None:
    pytest.importorskip("PIL")
    from quantize_files import features, files
    from quantize_ocr import FONT_FOLDERS, lines, pages

    types = ["csv", "json", "png", "python", "zip"]
    made = [files(10, 0, types) for _ in range(2)]
    np.testing.assert_array_equal(made[0][0], made[1][0])
    assert made[0][1].tolist() == [0, 1, 2, 3, 4] * 2
    padded = features(b"  ab \n")
    assert padded[:3].tolist() == [97, 98, 32]
    assert padded[-3:].tolist() == [32, 97, 98]
    if any(folder.is_dir() for folder in FONT_FOLDERS):
        for draw, shape in ((lines, (6, 3, 48, 192)), (pages, (2, 3, 320, 320))):
            first, second = (draw(shape[0], 5) for _ in range(2))
            assert first[0].shape == shape
            assert -1 <= first[0].min() < first[0].max() <= 1
            for one, other in zip(first, second, strict=True):
                np.testing.assert_array_equal(one, other)
