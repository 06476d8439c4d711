"""What a small graph is, and what it runs on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

Feed = dict[str, Any]

RUNS = 3

EDGES = (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42, 3e38, -3e38, 88.0, -88.0, 0.5, -0.5, 3.0, -3.0)
"""Zeros of both signs, what is no number, subnormal, near the ends of float32 and of exp, corners
of the piecewise linear functions."""


@dataclass(frozen=True)
class Graph:
    """A graph in ONNX text, and what a careless tool makes of it."""

    name: str
    why: str
    """What a careless rewrite gets wrong."""
    text: str
    """Everything from the graph's name on; the model's header comes from the fields below."""
    opset: int = 17
    ir_version: int = 8
    header: str = ""
    """More fields of the model's header."""
    functions: str = ""
    edges: bool = False
    """Whether EDGES are fed as well: for graphs that work element by element."""
    finite_below: float = math.inf
    """Finite EDGES from here on are not fed: a formula overflows half-way there, and the operator
    that stands for it does not."""
    random: bool = False
    """It draws numbers: only types, shapes and the number of draws can be compared."""
    unrunnable: bool = False
    """No engine runs it: only its validity and what surrounds it can be compared."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values for inputs whose numbers mean something, such as shapes."""
    keeps: tuple[str, ...] = ()
    """Operators (`domain.name` of a domain with a name) that must all still be there."""
    edit: Callable[[onnx.ModelProto], None] | None = None
    """What the text cannot say."""

    def model(self) -> onnx.ModelProto:
        """The checked model."""
        opsets = f'opset_import: ["" : {self.opset}]' if self.opset else ""
        header = ", ".join(filter(None, (f"ir_version: {self.ir_version}", opsets, self.header)))
        model = onnx.parser.parse_model(f"<{header}>\n{self.text}\n{self.functions}")
        if self.edit is not None:
            self.edit(model)
        onnx.checker.check_model(model)
        return model

    def feeds(self) -> list[Feed]:
        """RUNS times random values for the inputs, then EDGES; defaults are overridden in the last
        random run only. A symbolic dimension is another size each time."""
        model = self.model()
        defaults = {tensor.name for tensor in model.graph.initializer}
        found: list[Feed] = []
        for run in range(RUNS + self.edges):
            random = np.random.default_rng(run)
            found.append(
                {
                    value.name: self.fixed[value.name]
                    if value.name in self.fixed
                    else _values(value, run, random, self.finite_below)
                    for value in model.graph.input
                    if value.name not in defaults or run == RUNS - 1
                }
            )
        return found


def _values(
    value: onnx.ValueInfoProto, run: int, random: np.random.Generator, finite_below: float
) -> Any:
    """Float values of any sign, small integers, a few equal ones among them."""
    tensor = value.type.tensor_type
    shape = [
        dim.dim_value if dim.HasField("dim_value") else (2, 3, 1, 4)[run]
        for dim in tensor.shape.dim
    ]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if tensor.elem_type == onnx.TensorProto.STRING:
        return random.choice(np.array(["a", "b", ""], object), shape)
    if dtype == np.bool_:
        return np.asarray(random.integers(0, 2, shape), np.bool_)
    if dtype.kind in "iu":
        return np.asarray(random.integers(0 if dtype.kind == "u" else -5, 6, shape), dtype)
    if run == RUNS:
        fed = [x for x in EDGES if not finite_below <= abs(x) < math.inf]
        edges = np.resize(np.array(fed), shape)
        with np.errstate(over="ignore"):
            return random.permuted(edges).astype(dtype) if edges.size else edges.astype(dtype)
    return np.asarray(2 * random.standard_normal(shape), dtype)
