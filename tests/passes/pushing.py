"""What the tests of push-transposes share."""

from __future__ import annotations

from typing import Any

import numpy as np
from rewriting import Outcome, apply

from graphopt_passes.push_transposes import PushTransposes

LAST, FIRST = "<perm = [0, 2, 3, 1]>", "<perm = [0, 3, 1, 2]>"
"""NCHW to NHWC, and back."""
CONSTANTS = (
    "float[5] vector = {1, -2, 3, -4, 5}, float[4, 1] column = {1, 2, 3, 4}, float one = {1.5}, "
    "float[1, 3, 1, 5] full = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, "
    "float zero = {0}, float six = {6}, int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, "
    "int64[1] i4 = {4}, int64[2] parts = {2, 3}, int64[2] picked = {2, 0}, int64 at1 = {1}, "
    "int64[8] pads = {0, 1, 0, 2, 0, 0, 1, 0}, int64[4] times = {1, 2, 1, 3}, "
    "int64[4] larger = {2, 3, 4, 5}, float[5] scales = {0.1, 0.2, 0.3, 0.4, 0.5}, "
    "float scale = {0.05}, uint8[5] points = {1, 2, 3, 4, 5}"
)


def push(
    body: str,
    *,
    inputs: str = "float[2, 5, 3, 4] x",
    outputs: str = "float[a, b, c, d] y",
    opset: int = 17,
    edit: Any = None,
) -> Outcome:
    return apply(
        PushTransposes(),
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) '
        f"<{CONSTANTS}> {{ {body} }}",
        edit,
    )


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


X = {"x": numbers(2, 5, 3, 4)}


def transposes(outcome: Outcome) -> int:
    return outcome.all_operators["Transpose"]
