"""What the pages of tests on fuse-activations and fuse-normalizations share."""

from __future__ import annotations

import numpy as np
import onnx
from rewriting import Outcome, apply, both, held, run

from graphopt.pipeline.base import Pass

IR_VERSION = {7: 3, 13: 7, 17: 8, 20: 9, 21: 10, 23: 11, 24: 12}

EDGES = np.array(
    [0, -0.0, np.nan, np.inf, -np.inf, 1e-42, 1e30, -1e30, 88, -88, 0.5, -0.5, 3, -3, 2.5, -2.9],
    np.float32,
)
"""Where activations bend, saturate and overflow."""


def formula(
    body: str,
    opset: int = 17,
    *,
    x: str = "float[2, 3, 8]",
    y: str | None = None,
    **constants: np.ndarray | float,
) -> onnx.ModelProto:
    """A model of input x and output y; `constants` are initializers, float32 if plain numbers."""
    ir_version = next(v for o, v in IR_VERSION.items() if opset <= o)
    text = (
        f'<ir_version: {max(ir_version, 4)}, opset_import: ["" : {opset}]>\n'
        f"g ({x} x) => ({y or x} y) {{\n{body}\n}}"
    )
    model = onnx.parser.parse_model(text)
    edits = [
        held(name, c if isinstance(c, np.ndarray) else np.array(c, np.float32))
        for name, c in constants.items()
    ]
    both(*edits)(model)
    return model


def fuse(step: Pass, model: onnx.ModelProto) -> Outcome:
    return apply(step, model)


def reasons(outcome: Outcome) -> list[str]:
    """Why what was not rewritten was not, as `rewrite: reason`."""
    return [f"{declined.rewrite}: {declined.reason}" for declined in outcome.result.declined]


def random(*shape: int, dtype: type = np.float32, scale: float = 3.0) -> np.ndarray:
    values = scale * np.random.default_rng(sum(shape)).standard_normal(shape)
    return np.asarray(values, dtype)


def error(outcome: Outcome, x: np.ndarray) -> float:
    """How far the result is from the original in ONNX Runtime, relative to the peak; infinite
    where one is no finite number and the other is another."""
    before, after = run(outcome.before, {"x": x})[0], run(outcome.after, {"x": x})[0]
    assert before.dtype == after.dtype
    assert before.shape == after.shape
    before, after = before.astype(np.float64), after.astype(np.float64)
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    if not np.isfinite(before[~same]).all() or not np.isfinite(after[~same]).all():
        return float("inf")
    peak = np.abs(before[np.isfinite(before)]).max(initial=0.0)
    apart = float(np.abs(before[~same] - after[~same]).max(initial=0.0))
    return apart / float(peak) if apart else 0.0
