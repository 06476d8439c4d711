"""Large tensors that the model itself sums up, so that not all of their values have to leave it.

A feature map that is an output is copied, and read three times more from memory. As the model's own
last nodes, while it is still in the cache, the same costs two thirds (resnet50).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.positions import Positions
from graphopt.data.feeds import Feed
from graphopt.ir import Names, add_initializer
from graphopt.runtime.tap import tapped

LEAST_OPSET = 10
"""Of Slice with a step."""
EVERYTHING = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Sketch:
    """The names of the outputs that stand for a tensor."""

    low: str
    high: str
    total: str
    """A sum, which is not finite if a value is not; ReduceMin and ReduceMax may miss a NaN."""
    counted: str

    def histogram(self, outputs: Feed) -> Histogram | None:
        """That of the tensor; None if it cannot be told from `outputs`."""
        if not np.isfinite(outputs[self.total]):
            return None  # or the sum is beyond the greatest float
        low, high = float(outputs[self.low]), float(outputs[self.high])
        return Histogram.within(low, high, outputs[self.counted])

    @property
    def names(self) -> tuple[str, ...]:
        return self.low, self.high, self.total, self.counted


def sketched(
    model: ir.Model, names: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[ir.Model, dict[str, Sketch]]:
    """A copy of `model` that gives the values `names`, and what stands for some of them instead.

    Args:
        shapes: those of one sample, of what is summed up: float32, the batch outermost.
    """
    copy = model.clone()
    values = ir.convenience.create_value_mapping(copy.graph)
    fresh = Names(copy)
    found = {
        name: _sum_up(copy.graph, fresh, values[name], shapes[name])
        for name in names
        if name in shapes
    }
    outputs = [
        output for name in names for output in (found[name].names if name in found else (name,))
    ]
    return tapped(copy, outputs), found


def _sum_up(graph: ir.Graph, names: Names, value: ir.Value, shape: tuple[int, ...]) -> Sketch:
    def node(operator: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        new = ir.node(operator, inputs, attributes, name=names.fresh(f"{value.name}_{operator}"))
        new.outputs[0].name = names.fresh(f"{value.name}_{operator}_output")
        new.outputs[0].type = value.type
        graph.append(new)
        return new.outputs[0]

    def constant(name: str, *numbers: int) -> ir.Value:
        return add_initializer(
            graph, names.fresh(f"{value.name}_{name}"), np.array(numbers, np.int64)
        )

    size = math.prod(shape)
    step = Positions.of(size, 1).step
    rows = node("Reshape", [value, constant("rows", -1, size)])
    parts = [constant("start", 0), constant("end", EVERYTHING), constant("axis", 1)]
    counted = node("Slice", [rows, *parts, constant("step", step)])
    low, high, total = (
        node(operator, [value], keepdims=0) for operator in ("ReduceMin", "ReduceMax", "ReduceSum")
    )
    return Sketch(*(str(output.name) for output in (low, high, total, counted)))
