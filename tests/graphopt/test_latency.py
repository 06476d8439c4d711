"""Timing models side by side: whose turn it is, and which runs count. Times are not for a test."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from graphopt.runtime import latency


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were run, in order; a turn takes as few runs as it can."""
    done: list[Any] = []

    class FakeSession:
        def __init__(self, model: Any, **options: Any) -> None:
            self.model = model
            assert options["optimize"]

        def run(self, feed: Any) -> None:
            done.append(self.model)

    monkeypatch.setattr(latency, "Session", FakeSession)
    monkeypatch.setattr(latency, "TURN_S", 0.0)
    return done


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ({"seconds": 0}, 3),
        ({"seconds": 0, "least": 1}, 1),
        ({"seconds": 60, "most": 5}, 5),
    ],
)
def test_models_take_turns_of_several_runs(
    options: dict[str, Any], turns: int, runs: list[Any]
) -> None:
    models: Any = ["a", "b", "c"]
    times = latency.run_times(models, {}, **options)
    each = latency.MIN_RUNS + 1  # the first of a turn does not count
    assert [(model, len(list(row))) for model, row in groupby(runs)] == [
        (model, each) for _ in range(turns) for model in models
    ]
    assert [len(row) for row in times] == [turns * latency.MIN_RUNS] * 3
    assert all(time >= 0 for row in times for time in row)


def test_a_slow_model_is_not_run_more_than_it_has_to(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "BUDGET_S", 0.0)
    models: Any = ["a", "b"]
    assert len(latency.latencies(models, {})) == 2
    assert len(runs) == 2 * (latency.MIN_RUNS + 1)
