"""What the pages of tests on fuse-affine share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from rewriting import Outcome, apply, both, held, run

from graphopt_passes.fuse_affine import FuseAffine

CONV = "c = Conv (x, w) \n y = BatchNormalization (c, s, b, m, v)"
IMAGE = "float[N, 3, 8, 8] x"

Edit = Callable[[onnx.ModelProto], None]

RNG = np.random.default_rng(0)


def head(opset: int = 17, ir_version: int = 8) -> str:
    return f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'


def norm(channels: int, dtype: type = np.float32, prefix: str = "") -> Edit:
    """The parameters s, b, m, v of a BatchNormalization."""
    rng = np.random.default_rng(channels)
    values = {
        "s": rng.uniform(0.5, 2, channels),
        "b": rng.standard_normal(channels),
        "m": rng.standard_normal(channels),
        "v": rng.uniform(0.1, 3, channels),
    }
    return both(*(held(prefix + name, array.astype(dtype)) for name, array in values.items()))


def weight(*shape: int, dtype: type = np.float32, name: str = "w") -> Edit:
    rng = np.random.default_rng(sum(shape))
    return held(name, rng.standard_normal(shape).astype(dtype))


def fuse(text: str, *edits: Edit) -> Outcome:
    return apply(FuseAffine(), text, both(*edits))


def close(outcome: Outcome, *shape: int, limit: float = 1e-6) -> bool:
    """Whether the outputs differ by at most `limit` times their peak, in ONNX Runtime."""
    feed = {"x": RNG.standard_normal(shape).astype(np.float32)}
    pairs = zip(run(outcome.before, feed), run(outcome.after, feed), strict=True)
    return all(np.abs(a - b).max() <= limit * np.abs(b).max() for b, a in pairs)
