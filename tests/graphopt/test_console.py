"""Reports in a pipe, one row a line; and on a narrow terminal, where nothing may be lost."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from graphopt.report.console import report_console, report_table


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


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_loses_neither_names_nor_digits(
    capsys: pytest.CaptureFixture[str], width: int
) -> None:
    table = report_table("node", numbers=("MACs", "parameters"))
    table.add_row("/blocks/blocks.2/conv2/conv2.0/Conv", "1,806,336", "123,456,789,012,345")
    Console(width=width).print(table)
    rows = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)] == [
        "/blocks/blocks.2/conv2/conv2.0/Conv",
        "1,806,336",
        "123,456,789,012,345",
    ]
