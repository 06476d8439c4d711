"""Random samples for models that come without data: the structure counts, not the numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import InputSpec, input_specs

SAMPLES = 2
IMAGE, SEQUENCE = 320, 64
"""The free sizes of an input with four axes, and of others."""
TEXT_LINE = (48, 192)
"""Those of nets that read one line of text, by name."""


def sample_shape(spec: InputSpec, name: str) -> tuple[int, ...]:
    """One sample of the model `name`: free dimensions get sizes that nets of its kind take."""
    free = (IMAGE, IMAGE) if len(spec.shape) == 4 else (SEQUENCE,) * len(spec.shape)
    if name.endswith(("_cls", "_rec")):
        free = TEXT_LINE
    sizes = [1 if spec.batched and i == 0 else size for i, size in enumerate(spec.shape)]
    first = len(sizes) - len(free)
    return tuple(
        size if size is not None else free[index - first] for index, size in enumerate(sizes)
    )


def random_samples(model: ir.Model, name: str) -> ArraySamples:
    """SAMPLES samples of each input: normal floats, integers that every table of indices has."""
    generator = np.random.default_rng(0)
    specs = input_specs(model)
    feed = {spec.name: _noise(spec, sample_shape(spec, name), generator) for spec in specs}
    return ArraySamples("noise", feed, specs, is_random=True)


def _noise(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    stacked = (SAMPLES, *shape[1:]) if spec.batched else (SAMPLES, *shape)
    if spec.dtype.kind in "iub":
        return generator.integers(0, 2, stacked).astype(spec.dtype)
    return generator.standard_normal(stacked).astype(spec.dtype)
