"""Two models side by side."""

from __future__ import annotations

import os
from dataclasses import dataclass

from graphopt.data.feeds import batches, input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.progress import Progress, Quiet
from graphopt.runtime.difference import Difference, compare
from graphopt.runtime.reference import open_engine


@dataclass(frozen=True)
class Comparison:
    """The outputs of `second` against those of `first`, on the same samples."""

    first: str
    second: str
    data: str
    samples: int
    differences: tuple[Difference, ...]
    tolerance: float | None

    @property
    def met(self) -> bool:
        """Whether every output is within the tolerance; true if none is stated."""
        return self.tolerance is None or all(d.within(self.tolerance) for d in self.differences)


def compare_models(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    data: str,
    *,
    limit: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Runs both models on the samples that `data` names, one at a time, and compares.

    Raises:
        GraphoptError: if one does not run, or their inputs or outputs differ.
    """
    models = load(first), load(second)
    specs, others = input_specs(models[0]), input_specs(models[1])
    if specs != others:
        shown = [", ".join(f"{s.name} {s}" for s in each) for each in (specs, others)]
        raise GraphoptError(f"the inputs differ: {shown[0]} and {shown[1]}", where=str(second))
    samples = open_samples(data, specs)
    reference = open_engine(models[0])
    engines = reference, open_engine(models[1], like=reference)
    outputs: tuple[list[dict[str, object]], ...] = ([], [])
    feeds = batches(samples, specs, 1, limit)
    count = 0
    for feed, real in (progress or Quiet()).track(feeds, "comparing", limit or samples.count()):
        count += real
        for engine, collected in zip(engines, outputs, strict=True):
            collected.append(dict(engine.run(feed)))
    return Comparison(
        first=str(first),
        second=str(second),
        data=samples.description,
        samples=count,
        differences=compare(*outputs),
        tolerance=tolerance,
    )
