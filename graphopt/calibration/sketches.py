"""Large tensors that the model itself sums up, so that not all of their values have to leave it.

A feature map that is an output is copied, and read three times more from memory. As nodes of the
model that follow the one that makes it, while it is still in the cache, the same costs much less:
a sixth of the time that resnet50 takes.
"""

from __future__ import annotations

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
    """What stands for a tensor: the names of outputs.

    Attributes:
        lows: the least value, or several of which one is the least.
        highs: the greatest, likewise.
        means: sums or means over parts, which are not finite if a value is not: the least and the
            greatest may miss a NaN.
        counted: the values at the positions.
    """

    lows: str
    highs: str
    means: str
    counted: str

    def histogram(self, outputs: Feed) -> Histogram | None:
        """That of the tensor; None if it cannot be told from `outputs`."""
        if not np.isfinite(outputs[self.means]).all():
            return None  # or a sum is beyond the greatest float
        low, high = float(outputs[self.lows].min()), float(outputs[self.highs].max())
        return Histogram.within(low, high, outputs[self.counted])

    @property
    def names(self) -> tuple[str, ...]:
        return self.lows, self.highs, self.means, self.counted


def sketched(
    model: ir.Model, names: tuple[str, ...], positions: Mapping[str, Positions]
) -> tuple[ir.Model, dict[str, Sketch]]:
    """A copy of `model` that gives the values `names`, and what stands for some of them instead.

    Args:
        positions: those in one sample of what is summed up: float32, the batch outermost; along
            three axes, feature maps [N, C, H, W].
    """
    copy = tapped(model, names)
    values = ir.convenience.create_value_mapping(copy.graph)
    writer = _Writer(copy)
    # ONNX Runtime starts at the last node that none reads and runs what that needs. So what reads
    # the first tensors comes last, and each tensor is read soon after it is made.
    found = {
        name: writer.sketch(values[name], positions[name])
        for name in reversed(names)
        if name in positions
    }
    outputs = [
        output for name in names for output in (found[name].names if name in found else (name,))
    ]
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in dict.fromkeys(outputs))
    return copy, found


class _Writer:
    """Adds the nodes of sketches to a model."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = Names(model)
        self._minus: dict[int, ir.Value] = {}

    def sketch(self, value: ir.Value, positions: Positions) -> Sketch:
        maps = len(positions.shape) == 3
        made = (self._of_maps if maps else self._of_row)(value, positions)
        return Sketch(*(str(output.name) for output in made))

    def _of_row(self, value: ir.Value, positions: Positions) -> list[ir.Value]:
        rows = self._node("Reshape", [value, self._constant(value, "rows", [-1, *positions.shape])])
        ends = ([0], [EVERYTHING], [1], positions.steps)
        names = ("start", "end", "axis", "step")
        parts = [self._constant(value, name, end) for name, end in zip(names, ends, strict=True)]
        reductions = [
            self._node(operator, [value], keepdims=0)
            for operator in ("ReduceMin", "ReduceMax", "ReduceSum")
        ]
        return [*reductions, self._node("Slice", [rows, *parts])]

    def _of_maps(self, value: ir.Value, positions: Positions) -> list[ir.Value]:
        """With operators that ONNX Runtime has for its own layout, [N, C/16, H, W, 16].

        For any other it would first have to write [N, C, H, W], which costs more than they do.
        """
        channels = positions.shape[0]
        if channels not in self._minus:
            weights = np.full((channels, 1, 1, 1), -1, np.float32)
            name = self._names.fresh(f"minus_{channels}")
            self._minus[channels] = add_initializer(self._graph, name, weights)
        negative = self._node("Conv", [value, self._minus[channels]], group=channels)
        low = self._node("Neg", [self._node("GlobalMaxPool", [negative])])
        high, mean = (self._node(f"Global{kind}Pool", [value]) for kind in ("Max", "Average"))
        steps = list(positions.steps[1:])
        return [low, high, mean, self._node("MaxPool", [value], kernel_shape=[1, 1], strides=steps)]

    def _node(self, operator: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        name = f"{inputs[0].name}_{operator}"
        new = ir.node(operator, inputs, attributes, name=self._names.fresh(name))
        new.outputs[0].name = self._names.fresh(f"{name}_output")
        new.outputs[0].type = inputs[0].type
        self._graph.append(new)
        return new.outputs[0]

    def _constant(self, value: ir.Value, name: str, numbers: Any) -> ir.Value:
        array = np.array(numbers, np.int64)
        return add_initializer(self._graph, self._names.fresh(f"{value.name}_{name}"), array)
