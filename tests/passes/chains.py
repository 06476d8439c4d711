"""What the tests of collapse-chains share."""

from __future__ import annotations

import numpy as np
import onnx
from rewriting import Outcome, apply

from graphopt_passes.collapse_chains import CollapseChains

# Zeros of both signs, NaN, infinities, subnormal numbers, and numbers around the limits below.
EDGES = [-0.0, 0.0, np.nan, np.inf, -np.inf, 1, -1, 3, 7, 5.5, -2, 2, -7, 1e30, 6, -0.5, 1e-42]


def collapse(graph: str, *, opset: int = 17, ir_version: int = 8) -> Outcome:
    """collapse-chains on `graph`, which is ONNX text from its inputs on."""
    return apply(
        CollapseChains(), f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g {graph}'
    )


def numbers(*shape: int, dtype: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(0)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-50 if np.issubdtype(dtype, np.signedinteger) else 0, 50, shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def constants(**lists: list[int]) -> str:
    """Vectors of int64, as ONNX text writes initializers."""
    return ", ".join(
        f"int64[{len(items)}] {name} = {{{', '.join(map(str, items))}}}"
        for name, items in lists.items()
    )


def constant_input(outcome: Outcome, place: int, index: int) -> list[int]:
    """The constant that is input `index` of the node at `place`."""
    return outcome.initializers[outcome.after.graph.node[place].input[index]].tolist()


def attribute(outcome: Outcome, place: int, name: str) -> object:
    """An attribute of the node at `place`."""
    found = {a.name: a for a in outcome.after.graph.node[place].attribute}
    return onnx.helper.get_attribute_value(found[name])
