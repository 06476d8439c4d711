"""bench_cpu.py: the table that it prints. What the times are is not for a test to say."""

from __future__ import annotations

import sys
from pathlib import Path

import bench_cpu
import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize(
    ("net", "more", "layers"), [("resnet", (), 11), ("mobilenet", ("--islands",), 27)]
)
def test_a_line_for_each_batch(
    net: str,
    more: tuple[str, ...],
    layers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "cpu.md"
    given = [str(FIXTURES / f"{net}.onnx"), "--batch", "1", "2", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["bench_cpu.py", *given, *more, "--markdown", str(page)])
    bench_cpu.main()
    printed = capsys.readouterr().out
    head, _, *rows = printed.splitlines()
    assert head.startswith("| model | batch |")
    for row, batch in zip(rows, (1, 2), strict=True):
        name, size, told, milliseconds, *parts = (cell.strip() for cell in row[1:-1].split("|"))
        assert (name, size) == (net, str(batch))
        assert told.startswith(f"{layers} of ")
        assert float(milliseconds) > 0
        simplified, made, of_simplified = map(float, parts)
        assert made / simplified == pytest.approx(of_simplified, abs=0.05)
    assert page.read_text().endswith(printed)
