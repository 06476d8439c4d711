"""What the tests of `equalize` share: random factors for every channel that can be scaled."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import check
from graphopt.pipeline.base import PassContext
from graphopt_passes.equalize.groups import Channels, rescale


def scaled_at_random(model: ir.Model, seed: int = 0) -> tuple[ir.Model, list[int]]:
    """A copy of `model` with every channel scaled by 2^k, k in -3..3, and its groups' sizes."""
    copy = model.clone()
    channels = Channels(copy, PassContext().analyses.facts(copy))
    generator = np.random.default_rng(seed)
    factors = np.exp2(generator.integers(-3, 4, channels.count)).astype(np.float64)
    factors[0] = 1
    changed = rescale(copy, channels, factors)
    check(copy)
    assert changed == bool(channels.groups)
    return copy, [len(group.channels) for group in channels.groups]
