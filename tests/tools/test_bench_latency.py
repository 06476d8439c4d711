"""bench_latency.py: the table that it makes. What the times are is not for a test to say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_latency
import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"


def test_a_row_says_which_part_of_the_macs_is_saved_in_time() -> None:
    row = {
        "model": "net",
        "pipeline": "prune-channels{macs=0.5}",
        "macs": [1000, 500],
        "score": [90.0, 89.5],
        "times": {"1": [2.0, 1.2], "8": [10.0, 4.0]},
    }
    *_, line = bench_latency.table([row]).splitlines()
    cells = "-50% | -40% (0.80) | -60% (1.20) | 90.00, -0.50"
    assert line == f"| net | `prune-channels{{macs=0.5}}` | {cells} |"


def test_a_run_is_kept_and_put_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, runs = tmp_path / "page.md", tmp_path / "runs.json"
    page.write_text(f"Above\n{bench_latency.BEGIN}\nold\n{bench_latency.END}\nbelow\n")
    arguments = [str(FIXTURES / "resnet.onnx"), "prune-channels{ratio=0.5}", "--batch", "2"]
    arguments += ["--calib", str(FIXTURES / "calib.npz"), "--seconds", "0"]
    arguments += ["--json", str(runs), "--write", str(page)]
    monkeypatch.setattr(sys, "argv", ["bench_latency.py", *arguments])
    assert bench_latency.main() == 0
    (run,) = json.loads(runs.read_text()).values()
    assert 0 < run["macs"][1] < 0.5 * run["macs"][0]
    assert min(run["times"]["2"]) > 0
    text = page.read_text()
    assert capsys.readouterr().out.strip() in text
    assert "old" not in text
    assert text.startswith("Above\n")
    assert text.endswith("\nbelow\n")
