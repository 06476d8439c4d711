"""How long a model takes in ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import onnx_ir as ir

from graphopt.data.feeds import Feed
from graphopt.runtime.session import Session

BUDGET_S = 2.0
MAX_RUNS = 50
WARM_UP = 2


def latencies(models: Sequence[ir.Model], feed: Feed) -> list[float]:
    """The median time of one run of each of `models` on `feed`, in milliseconds.

    ONNX Runtime's optimizations are on, as they are where a model is used. The models take turns,
    so that a noisy machine is as noisy for each: compare the results with one another, and not
    with those of another call.
    """
    sessions = [Session(model, optimize=True) for model in models]
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        for _ in range(WARM_UP):
            session.run(feed)
    end = time.perf_counter() + BUDGET_S
    for _ in range(MAX_RUNS):
        for session, row in zip(sessions, times, strict=True):
            begun = time.perf_counter()
            session.run(feed)
            row.append((time.perf_counter() - begun) * 1e3)
        if time.perf_counter() > end:
            break
    return [statistics.median(row) for row in times]
