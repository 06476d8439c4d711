"""Samples to fit on, and samples held out to judge by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from graphopt.data.feeds import Feed, Samples

PERIOD = 4
"""One sample of so many is held out."""
FEWEST = 8
"""With fewer samples in all, none is held out: two say too little."""


@dataclass(frozen=True)
class Part:
    """Some of the samples of `whole`, in their order: those held out, or all the others.

    Every `PERIOD`th sample is held out. That is spread over the whole source, for files are often
    sorted by class.

    Attributes:
        limit: how many samples of `whole` count, at most; None for all.
    """

    whole: Samples
    held_out: bool
    limit: int | None = None

    @property
    def description(self) -> str:
        return f"{'a' if self.held_out else 'three'} quarter{'' if self.held_out else 's'} of " + (
            self.whole.description
        )

    @property
    def is_random(self) -> bool:
        return self.whole.is_random

    def __iter__(self) -> Iterator[Feed]:
        for index, feed in enumerate(islice(self.whole, self.limit)):
            if (index % PERIOD == PERIOD - 1) == self.held_out:
                yield feed

    def count(self) -> int | None:
        total = self.whole.count()
        if total is None:
            return None
        total = total if self.limit is None else min(total, self.limit)
        held = total // PERIOD
        return held if self.held_out else total - held


def split(samples: Samples, limit: int | None = None) -> tuple[Part, Part] | None:
    """`samples` (the first `limit`) to fit on, and held out; None if there are too few for both."""
    if sum(1 for _ in islice(samples, FEWEST if limit is None else min(limit, FEWEST))) < FEWEST:
        return None
    return Part(samples, False, limit), Part(samples, True, limit)
