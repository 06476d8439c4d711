"""What the tests of fuse-attention share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.reference
from rewriting import Outcome, run

# (batch, heads, sequence, features): queries, keys and values
SHAPES = {"q": (2, 4, 5, 8), "k": (2, 4, 7, 8), "v": (2, 4, 7, 6)}


def numbers(*shape: int, seed: int = 5, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype(dtype)


def text(graph: str, opset: int = 23) -> str:
    return f'<ir_version: 10, opset_import: ["": {opset}]> g {graph}'


def feed(shapes: Mapping[str, tuple[int, ...]] = SHAPES, **more: np.ndarray) -> dict[str, Any]:
    made = {name: numbers(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return made | more


def attributes(outcome: Outcome) -> dict[str, Any]:
    node = next(n for n in outcome.after.graph.node if n.op_type == "Attention")
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def agrees(outcome: Outcome, inputs: Mapping[str, np.ndarray]) -> bool:
    """In ONNX Runtime and in onnx's reference evaluator, within rounding of float32."""
    if not outcome.agrees(inputs, rtol=1e-5, atol=1e-5):
        return False
    expected = run(outcome.before, inputs)
    actual = onnx.reference.ReferenceEvaluator(outcome.after).run(None, dict(inputs))
    return all(np.allclose(a, e, 1e-5, 1e-5) for a, e in zip(actual, expected, strict=True))
