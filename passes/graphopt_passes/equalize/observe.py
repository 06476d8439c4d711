"""What tensors hold on calibration samples: the peak of each channel, and some of the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed, Samples
from graphopt.errors import GraphoptError
from graphopt.progress import Progress
from graphopt.runtime.tap import tap

BUDGET_BYTES = 1 << 26
"""What may be kept of all tensors together; at least one sample of each is."""


@dataclass(frozen=True)
class Thinned:
    """At most `most` samples of `whole`, spread over it; the first if their number is unknown."""

    whole: Samples
    most: int

    @property
    def description(self) -> str:
        return self.whole.description

    @property
    def is_random(self) -> bool:
        return self.whole.is_random

    def __iter__(self) -> Iterator[Feed]:
        total = self.whole.count()
        if total is None:
            yield from islice(self.whole, self.most)
            return
        count = min(self.most, total)
        wanted = {index * total // count for index in range(count)}
        for index, feed in enumerate(self.whole):
            if index in wanted:
                yield feed

    def count(self) -> int | None:
        total = self.whole.count()
        return None if total is None else min(self.most, total)


@dataclass
class Observed:
    """What was seen of a tensor."""

    peaks: NDArray[np.float64]
    """The largest magnitude by number of the channel, over all samples."""
    kept: list[NDArray[np.float32]] = field(default_factory=list)
    """Its values for the first samples."""


def observe(
    model: ir.Model,
    numbers: Mapping[str, NDArray[np.int64]],
    samples: Samples,
    count: int,
    most: int,
    progress: Progress,
) -> dict[str, Observed]:
    """Runs `model` over `samples`, one at a time.

    Args:
        numbers: the tensors to watch by name, and the numbers of their channels, which broadcast
            to the tensor; none is `count` or more.
        most: how many samples' values to keep, at most.

    Raises:
        GraphoptError: if a tensor takes a value that is NaN or infinite.
    """
    found = {name: Observed(np.zeros(count)) for name in numbers}
    room = dict.fromkeys(numbers, BUDGET_BYTES // max(len(numbers), 1))
    runs = tap(model, numbers, samples, batch=1, progress=progress, description="equalizing")
    for values in runs:
        for name, array in values.items():
            seen = found[name]
            _raise_peaks(seen.peaks, name, array, numbers[name])
            if not seen.kept or (len(seen.kept) < most and array.size * 4 <= room[name]):
                seen.kept.append(array.astype(np.float32))
                room[name] -= array.size * 4
    return found


def _raise_peaks(
    peaks: NDArray[np.float64], name: str, array: NDArray[Any], numbers: NDArray[np.int64]
) -> None:
    shape = (1,) * (array.ndim - numbers.ndim) + numbers.shape
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    largest = np.abs(array).max(axis=axes, keepdims=True, initial=0).astype(np.float64)
    if not np.isfinite(largest).all():
        raise GraphoptError(
            "takes NaN or an infinite value on the calibration data",
            where=f"tensor '{name}'",
            fix="check the data and the model, or exclude the nodes that read it",
        )
    np.maximum.at(peaks, numbers.reshape(-1), largest.reshape(-1))
