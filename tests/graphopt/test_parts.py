"""Samples to fit on and samples held out."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import InputSpec
from graphopt.data.parts import split

SPECS = (InputSpec("x", (None, 1), np.dtype(np.float32)),)


def samples(count: int) -> ArraySamples:
    return ArraySamples("test data", {"x": np.arange(count, dtype=np.float32)[:, None]}, SPECS)


@pytest.mark.parametrize(("count", "limit"), [(8, None), (9, None), (11, 10), (100, 30)])
def test_the_parts_are_disjoint_and_make_the_whole(count: int, limit: int | None) -> None:
    parts = split(samples(count), limit)
    assert parts is not None
    fit, held = ([float(feed["x"][0, 0]) for feed in part] for part in parts)
    assert sorted(fit + held) == list(range(limit or count))
    assert held == list(range(3, limit or count, 4))
    assert [part.count() for part in parts] == [len(fit), len(held)]


@pytest.mark.parametrize(("count", "limit"), [(0, None), (7, None), (100, 7)])
def test_too_few_are_not_split(count: int, limit: int | None) -> None:
    assert split(samples(count), limit) is None
