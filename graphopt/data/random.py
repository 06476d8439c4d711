"""Noise in place of samples, for what needs any input at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.data.feeds import Feed, InputSpec

FREE_DIMENSION = 1
"""The size given to a symbolic dimension other than the first; the first is the batch."""


@dataclass(frozen=True)
class RandomOptions:
    """How much noise: `n` samples from `seed`."""

    n: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("n must be at least 1")
        if self.seed < 0:
            raise ValueError("seed must not be negative")


@dataclass(frozen=True)
class RandomSamples:
    """Standard normal floats, integers in {0, 1} and random truth values.

    Integers stay that small since they are often indices, whose range the model does not state.
    """

    options: RandomOptions
    specs: tuple[InputSpec, ...]
    is_random = True

    @property
    def description(self) -> str:
        return f"random noise ({self.options.n} samples, seed {self.options.seed})"

    def __iter__(self) -> Iterator[Feed]:
        generator = np.random.default_rng(self.options.seed)
        for _ in range(self.options.n):
            yield {spec.name: _noise(spec, generator) for spec in self.specs}

    def count(self) -> int:
        return self.options.n


def _noise(spec: InputSpec, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = tuple(FREE_DIMENSION if dim is None else dim for dim in spec.shape)
    if spec.batched and spec.shape:
        shape = (1, *shape[1:])  # one sample; `batches` fills a fixed batch
    if spec.dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(spec.dtype)
    if spec.dtype.kind in "OSU":
        return np.full(shape, "", dtype=object)
    return generator.standard_normal(shape).astype(spec.dtype)
