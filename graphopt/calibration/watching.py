"""A model with some of its tensors watched, ready to run on samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt.calibration.channels import Channels
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.positions import Positions
from graphopt.calibration.sketches import Sketch, sketched
from graphopt.data.feeds import Feed, batches, input_specs
from graphopt.errors import GraphoptError
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped


class Statistic(Protocol):
    """What is known of a tensor's values: parts merge, in any order, to the same whole."""

    def merge(self, other: Any, /) -> Any:
        """The statistic of the values of both; ValueError if they cannot be of one tensor."""
        ...


S = TypeVar("S", bound=Statistic)
S_co = TypeVar("S_co", bound=Statistic, covariant=True)


class Observer(Protocol[S_co]):
    """Makes a statistic of the values that a tensor takes on a batch; hashable, and travels."""

    def __call__(self, values: np.ndarray[Any, Any], samples: int, /) -> S_co:
        """The statistic of `values`, which hold `samples` samples; ValueError if not finite."""
        ...


@dataclass(frozen=True)
class HistogramObserver:
    """Range and distribution of a whole tensor.

    Attributes:
        positions: those in one sample, of a tensor that the model can sum up; see `sketches`.
    """

    positions: Positions | None = None

    def __call__(self, values: np.ndarray[Any, Any], samples: int, /) -> Histogram:
        positions = self.positions or Positions.of(values.size, samples)
        return Histogram.of(values, positions.take(values))


@dataclass(frozen=True)
class ChannelObserver:
    """Range, mean and distribution of each channel along `axis`."""

    axis: int

    def __call__(self, values: np.ndarray[Any, Any], samples: int, /) -> Channels:
        return Channels.of(values, self.axis, samples)


@dataclass(frozen=True)
class Task(Generic[S]):
    """What to watch, and how.

    Attributes:
        observers: by the tensor's name.
        groups: the tensors that are watched in one run; the next group takes another.
        batch: samples in a run, where the model's batch size is free.
        optimize: whether ONNX Runtime may rewrite the model.
    """

    observers: tuple[tuple[str, Observer[S]], ...]
    groups: tuple[tuple[str, ...], ...]
    batch: int
    optimize: bool


class Watch(Generic[S]):
    """A model whose watched tensors are outputs: samples in, statistics out.

    Each run computes in the thread that asks for it, and in that alone: how many threads ONNX
    Runtime has for an operator can change the order of its sums and so the last bits.
    """

    def __init__(self, model: ir.Model, task: Task[S]) -> None:
        self._task = task
        self._observers = dict(task.observers)
        self._specs = input_specs(model)
        self._model = model
        self._groups = [(group, *self._prepared(group)) for group in task.groups]

    def run(self, window: Iterable[Feed]) -> dict[str, S]:
        """The statistics of all tensors over the samples in `window`.

        Raises:
            GraphoptError: if a tensor is not of floats, or takes a value that is NaN or infinite.
        """
        found: dict[str, S] = {}
        for feed, _ in batches(window, self._specs, self._task.batch):
            samples = self._samples(feed)
            for group, session, sketches in self._groups:
                values = session.run({name: feed[name] for name in session.inputs})
                for name in group:
                    statistic: Any = None
                    if name in sketches:
                        statistic = sketches[name].histogram(values)
                        if statistic is None:
                            statistic = self._observe(name, self._whole(name, feed), samples)
                    else:
                        statistic = self._observe(name, values.pop(name), samples)
                    merge(found, name, statistic)
        return found

    def _prepared(self, group: tuple[str, ...]) -> tuple[Session, dict[str, Sketch]]:
        observers: dict[str, Any] = self._observers
        positions = {
            name: observer.positions
            for name in group
            if isinstance(observer := observers[name], HistogramObserver) and observer.positions
        }
        model, sketches = sketched(self._model, group, positions)
        session = Session(model, optimize=self._task.optimize, threads=1, by_index=True)
        return session, sketches

    def _whole(self, name: str, feed: Feed) -> np.ndarray[Any, Any]:
        """All values of a tensor that could not be summed up."""
        session = Session(tapped(self._model, [name]), optimize=self._task.optimize, threads=1)
        return session.run({name: feed[name] for name in session.inputs})[name]

    def _samples(self, feed: Feed) -> int:
        if not self._specs or not self._specs[0].batched:
            return 1
        shape = feed[self._specs[0].name].shape
        return shape[0] if shape else 1

    def _observe(self, name: str, values: Any, samples: int) -> S:
        if not isinstance(values, np.ndarray) or not _is_float(values.dtype):
            kind = values.dtype if isinstance(values, np.ndarray) else "no tensor"
            raise GraphoptError(
                f"is {kind}; only tensors of floats can be calibrated", where=f"tensor '{name}'"
            )
        try:
            return self._observers[name](values, samples)
        except ValueError as error:
            raise GraphoptError(
                f"takes {error} on the calibration data",
                where=f"tensor '{name}'",
                fix="check the data and the model, or exclude the nodes that read it",
            ) from None


def merge(found: dict[str, S], name: str, statistic: S) -> None:
    """Adds `statistic` to what is found of the tensor `name`."""
    try:
        found[name] = found[name].merge(statistic) if name in found else statistic
    except ValueError as error:
        raise GraphoptError(f"has {error}", where=f"tensor '{name}'") from None


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16
