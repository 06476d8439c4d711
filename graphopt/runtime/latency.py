"""How long a model takes in ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import onnx_ir as ir

from graphopt.data.feeds import Feed
from graphopt.runtime.session import Session

BUDGET_S = 2.0
MAX_TURNS = 5
TURN_S = 0.02
MIN_RUNS = 2
"""In a turn."""


def latencies(models: Sequence[ir.Model], feed: Feed) -> list[float]:
    """The median time of one run of each of `models` on `feed`, in milliseconds.

    Compare the results with one another, and not with those of another call; see `run_times`.
    """
    times = run_times(models, feed, seconds=BUDGET_S, least=1, most=MAX_TURNS)
    return [statistics.median(row) for row in times]


def run_times(
    models: Sequence[ir.Model],
    feed: Feed,
    *,
    seconds: float,
    least: int = 3,
    most: int | None = None,
    threads: int = 0,
) -> list[list[float]]:
    """The milliseconds of each run of each of `models` on `feed`.

    ONNX Runtime's optimizations are on, as they are where a model is used. The models take turns,
    so that a noisy machine is as noisy for each. A turn is several runs, the first of which does
    not count: it finds the caches full of the code and the weights of another model, which costs a
    small one 5% and more.

    Args:
        seconds: no turns begin behind that, but for the first ones.
        least: so many turns does each have in any case.
        most: and no more than so many.
        threads: for one operator; 0 for as many as there are cores.
    """
    sessions = [Session(model, optimize=True, threads=threads) for model in models]
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    turns = 0
    while turns < least or (turns != most and time.perf_counter() < end):
        for session, row in zip(sessions, times, strict=True):
            row += _turn(session, feed)
        turns += 1
    return times


def _turn(session: Session, feed: Feed) -> list[float]:
    """The milliseconds of runs in a row."""
    session.run(feed)
    times: list[float] = []
    end = time.perf_counter() + TURN_S
    while len(times) < MIN_RUNS or time.perf_counter() < end:
        begun = time.perf_counter()
        session.run(feed)
        times.append((time.perf_counter() - begun) * 1e3)
    return times
