"""bench_cpu.py: the table that it prints. What the times are is not for a test to say."""

from __future__ import annotations

import sys
from pathlib import Path

import bench_cpu
import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize(
    ("net", "more", "layers"), [("resnet", (), 10), ("mobilenet", ("--islands",), 27)]
)
def test_a_line_for_each_batch(
    net: str,
    more: tuple[str, ...],
    layers: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(FIXTURES / f"{net}.onnx"), "--batch", "1", "2", "--seconds", "0", *more]
    monkeypatch.setattr(sys, "argv", ["bench_cpu.py", *given])
    bench_cpu.main()
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| model | batch |")
    for row, batch in zip(rows, (1, 2), strict=True):
        name, size, told, floating, integer, ratio = (cell.strip() for cell in row[1:-1].split("|"))
        assert (name, size) == (net, str(batch))
        assert told.startswith(f"{layers} of ")
        assert float(floating) > 0
        assert float(integer) > 0
        assert float(ratio) > 0
