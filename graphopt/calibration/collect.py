"""Watching tensors over calibration samples, in one pass and in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager

import onnx_ir as ir

from graphopt.calibration.channels import Channels
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.plan import BUDGET_BYTES, Plan
from graphopt.calibration.watching import ChannelObserver, HistogramObserver, Observer, S, merge
from graphopt.calibration.workers import DASK, Window, Workers, dask, processes, threads
from graphopt.data.feeds import Feed, Samples
from graphopt.data.files import FileSamples
from graphopt.errors import GraphoptError
from graphopt.progress import Progress, Quiet


def collect(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    progress: Progress | None = None,
    *,
    limit: int | None = None,
    budget: int = BUDGET_BYTES,
    jobs: int = 1,
    backend: str | None = None,
) -> dict[str, Histogram]:
    """The histogram of each of the tensors `names` of the main graph, over `samples`.

    Ranges are exact; of large tensors the distribution is that at `Positions`. Samples are read
    once. They run in batches of up to `BATCH`, fewer where tensors are large; if those of one
    sample exceed `budget`, each batch runs several times, for a group of tensors at a time.

    How samples are cut into batches depends on none of the arguments that say where they run, and
    merging is exact: whatever those are, the result is the same to the bit.

    Args:
        model: it is not changed.
        names: float tensors of the main graph.
        limit: the number of samples to use, at most.
        budget: the bytes that the watched tensors may take in a process, at most, where their
            shapes can be inferred. A single tensor may exceed it.
        jobs: the number of processes to run samples in; 1 for the threads of this process.
        backend: `dask=ADDRESS` for the workers of a Dask cluster instead.

    Raises:
        GraphoptError: if a tensor is not of floats or takes a value that is NaN or infinite, if
            there are no samples, or no such backend.
    """
    observers = dict.fromkeys(names, HistogramObserver())
    return watch(
        model, observers, samples, progress, limit=limit, budget=budget, jobs=jobs, backend=backend
    )


def collect_channels(
    model: ir.Model,
    axes: Mapping[str, int],
    samples: Samples,
    progress: Progress | None = None,
    *,
    limit: int | None = None,
    budget: int = BUDGET_BYTES,
    jobs: int = 1,
    backend: str | None = None,
) -> dict[str, Channels]:
    """What is known of each channel of tensors of the main graph, over `samples`.

    Args:
        axes: the axis of the channels, by the tensor's name; negative ones count from the last.

    The other arguments, the errors, and what is the same to the bit: see `collect`.
    """
    observers = {name: ChannelObserver(axis) for name, axis in axes.items()}
    return watch(
        model, observers, samples, progress, limit=limit, budget=budget, jobs=jobs, backend=backend
    )


def watch(
    model: ir.Model,
    observers: Mapping[str, Observer[S]],
    samples: Samples,
    progress: Progress | None = None,
    *,
    limit: int | None = None,
    budget: int = BUDGET_BYTES,
    jobs: int = 1,
    backend: str | None = None,
) -> dict[str, S]:
    """The statistic that each of `observers`, by tensor, makes over `samples`; see `collect`."""
    if not observers:
        return {}
    source = iter(samples)
    first = next(source, None)
    if first is None or limit == 0:
        raise GraphoptError("holds no samples", where=samples.description)
    plan = Plan.of(model, observers, first, budget)
    windows: Iterator[Window]
    if isinstance(samples, FileSamples):
        windows = _parts(samples, plan.task.batch, limit)
    else:
        rest = itertools.chain([first], source)
        windows = _lists(itertools.islice(rest, limit), plan.task.batch)
    steps = _steps(samples.count(), limit, plan.task.batch)
    found: dict[str, S] = {}
    with _workers(model, plan, jobs, backend) as workers:
        parts = workers.map(windows)
        for part in (progress or Quiet()).track(parts, "calibrating", steps):
            for name, statistic in part.items():
                merge(found, name, statistic)
    return {name: found[name] for name in observers}


def _workers(
    model: ir.Model, plan: Plan[S], jobs: int, backend: str | None
) -> AbstractContextManager[Workers[S]]:
    if backend is not None:
        if not backend.startswith(DASK):
            raise GraphoptError(
                f"unknown backend '{backend}'",
                fix="known: dask=ADDRESS, such as dask=tcp://host:8786",
            )
        return dask(model, plan.task, backend.removeprefix(DASK))
    if jobs > 1:
        return processes(model, plan.task, jobs)
    return threads(model, plan.task, plan.at_once)


def _lists(samples: Iterator[Feed], size: int) -> Iterator[Window]:
    """Windows of samples that must be read here, one after the other."""
    while window := list(itertools.islice(samples, size)):
        yield window


def _parts(samples: FileSamples, size: int, limit: int | None) -> Iterator[Window]:
    """The same windows of samples that can be read where they are needed."""
    number = samples.count() if limit is None else min(limit, samples.count())
    for start in range(0, number, size):
        yield samples.part(start, min(start + size, number))


def _steps(number: int | None, limit: int | None, size: int) -> int | None:
    """How many windows there are, if that is known."""
    if number is None:
        return None
    return -(-(number if limit is None else min(limit, number)) // size)
