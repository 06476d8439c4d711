"""Random graphs, full of what rewrites look for and of what is nearly that, through `lossless`.

More of them than here: `FUZZ_SEEDS=1000:3000 pytest tests/fuzz`.
"""

from __future__ import annotations

import os

import pytest
from fuzz_check import failures
from fuzz_models import grow

GROUP = 10
DEFAULT = "0:400"
FIRST, LAST = map(int, os.environ.get("FUZZ_SEEDS", DEFAULT).split(":"))


@pytest.mark.parametrize("first", range(FIRST, LAST, GROUP))
def test_nothing_goes_wrong(first: int) -> None:
    found = {seed: failures(seed) for seed in range(first, min(first + GROUP, LAST))}
    assert not [line for lines in found.values() for line in lines or ()]
    assert any(lines is not None for lines in found.values())


def test_the_same_seed_grows_the_same_model() -> None:
    (one, *feeds), (other, *others) = grow(7), grow(7)
    assert one == other
    assert str(feeds) == str(others)
