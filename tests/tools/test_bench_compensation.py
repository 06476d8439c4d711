"""bench_compensation: its tables, and the page that they are put into."""

from __future__ import annotations

import pytest
from bench_compensation import BEGIN, COMPENSATIONS, END, NETS, Row, fill, key_of, tables


def runs(*scores: str) -> dict[str, Row]:
    row: Row = {
        "float": 90.0,
        "score": 89.5,
        "macs_cut": 47.2,
        "parameters_cut": 48.0,
        "seconds": 1.25,
    }
    return {
        key_of("vit", score, way, 0.3): {**row, "score": row["score"] - number}
        for score in scores
        for number, way in enumerate(reversed(COMPENSATIONS))
    }


def test_the_tables_hold_every_run_in_its_place() -> None:
    text = tables(runs("activation", "l1"))
    assert "| vit | 0.3 | 47% | 48% | 90.00 | 89.50 | -0.50 | 1.2 |" in text
    assert "`vit`, 90.00 before:" in text
    assert "| l1 | 86.5 | 87.5 | 88.5 | 89.5 |  |  |  |  |" in text
    assert not any(net in text for net in NETS if net != "vit")


def test_a_page_is_filled_again_and_again() -> None:
    page = f"before\n{BEGIN}\n{END}\nafter\n"
    once = fill(page, "old")
    assert once == f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    assert fill(once, "new") == once.replace("old", "new")


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}"])
def test_a_page_without_the_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="no block between"):
        fill(page, "text")
