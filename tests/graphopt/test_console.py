"""Reports in a pipe: one row, one line."""

from __future__ import annotations

import pytest
from rich.table import Table

from graphopt.report.console import report_console


def test_a_row_that_goes_into_a_pipe_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("node", "operator")
    table.add_row("layer/" * 60, "Conv")
    report_console().print(table)
    assert any(
        "layer/" * 60 in line and "Conv" in line for line in capsys.readouterr().out.split("\n")
    )
