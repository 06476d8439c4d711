"""The job of `graphopt compare`: two models side by side."""

from __future__ import annotations

import os

from graphopt.data.feeds import batches, input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import load
from graphopt.progress import Progress, Quiet
from graphopt.report.model import Comparison
from graphopt.runtime.difference import Comparer
from graphopt.runtime.reference import open_engine


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
    first_feed = next(batches(samples, specs, 1))[0]
    reference = open_engine(models[0], probe=first_feed)
    engines = reference, open_engine(models[1], like=reference)
    comparer = Comparer()
    feeds = batches(samples, specs, 1, limit)
    count = 0
    for feed, real in (progress or Quiet()).track(feeds, "comparing", limit or samples.count()):
        count += real
        comparer.add(*(engine.run(feed) for engine in engines))
    return Comparison(
        first=str(first),
        second=str(second),
        data=samples.description,
        samples=count,
        differences=comparer.result(),
        tolerance=tolerance,
    )
