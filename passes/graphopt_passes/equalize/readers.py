"""Layers that read what is rescaled, and how much they err when they are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.calibration import Histogram, choose_range
from graphopt.ir import is_standard, label
from graphopt.runtime.session import Session
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.equalize.groups import Channels, Factors, scaled
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.weights import quantize_weight, stored_scale

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Error:
    """By output channel, summed over samples and places."""

    noise: NDArray[np.float64]
    signal: NDArray[np.float64]

    def __add__(self, other: Error) -> Error:
        return Error(self.noise + other.noise, self.signal + other.signal)

    @property
    def share(self) -> float:
        """The noise as a part of the signal, averaged over the channels that have any.

        Channel by channel, since the scale of an output channel is as arbitrary as that of an
        input channel. What is worse than lost counts as lost.
        """
        alive = self.signal > 0
        if not alive.any():
            return 0.0
        return float(np.minimum(self.noise[alive] / self.signal[alive], 1).mean())

    @property
    def total(self) -> float:
        signal = self.signal.sum()
        return float(self.noise.sum() / signal) if signal else 0.0


class Reader:
    """A layer that will be quantized, and reads channels that can be scaled."""

    def __init__(self, candidate: Candidate, channels: Channels, rules: QuantizationRules) -> None:
        self.node = candidate.node
        self.name = label(candidate.node)
        self.value = str(candidate.data.name)
        self.numbers = channels.of(candidate.data)
        """Of the channels of its data."""
        slots = [s for s in channels.slots if s.node is self.node and s.index == 1]
        self.weight_numbers = channels.numbers(slots[0].down if slots else None)
        """Of the channels of its data, as they lie in its weight."""
        self.weight = candidate.tensor.numpy()
        self._axis = candidate.axis
        self._rules = rules

    def scale(self, data: Sequence[Array], factors: Factors, method: str) -> float:
        """The scale to quantize its data by, rescaled by `factors`; see `choose_range`."""
        factor = factors[self.numbers].astype(np.float32)
        histogram = Histogram.merge_all(Histogram.of(array * factor) for array in data)
        levels = self._rules.data_limits[1]
        return float(stored_scale(choose_range(histogram, method, levels) / levels, _FLOAT))

    def error(self, data: Sequence[Array], factors: Factors, scale: float) -> Error:
        """What quantizing its data and its weight, both rescaled by `factors`, does to its output.

        Args:
            scale: that of the data.
        """
        factor = factors[self.numbers].astype(np.float32)
        weight = scaled(self.weight, 1 / factors[self.weight_numbers])
        quantized = quantize_weight(weight, self._axis, self._rules.weight_limits)
        shape = [-1 if i == self._axis else 1 for i in range(weight.ndim)]
        rounded = quantized.data * quantized.scale.astype(np.float32).reshape(shape)
        total = None
        for array, expected in zip(data, self._expected(data), strict=True):
            steps = np.clip(np.rint(array * factor / scale), *self._rules.data_limits)
            got = self._run(steps.astype(np.float32) * np.float32(scale), rounded)
            error = _compare(expected, got, self._output_axis)
            total = error if total is None else total + error
        return Error(np.zeros(1), np.zeros(1)) if total is None else total

    @property
    def _output_axis(self) -> int:
        return 1 if is_standard(self.node, "Conv") else -1

    def _expected(self, data: Sequence[Array]) -> Iterator[Array]:
        weight = self.weight.astype(np.float32)
        for array in data:
            yield self._run(array, weight)

    def _run(self, data: Array, weight: Array) -> Array:
        if is_standard(self.node, "Conv"):
            return self._session.run({"x": data, "w": weight})["y"]
        if self.node.attributes.get_int("transB", 0):
            weight = weight.T
        return data @ weight

    @cached_property
    def _session(self) -> Session:
        """The node alone, without its bias, as a model of data and weight."""
        kind = ir.TensorType(ir.DataType.FLOAT)
        rank = self.weight.ndim
        inputs = [
            ir.Value(name=name, type=kind, shape=ir.Shape([None] * rank)) for name in ("x", "w")
        ]
        output = ir.Value(name="y", type=kind, shape=ir.Shape([None] * rank))
        attributes = list(self.node.attributes.values())
        node = ir.Node("", self.node.op_type, inputs, attributes, outputs=[output])
        graph = ir.Graph(inputs, [output], nodes=[node], opset_imports={"": 13}, name=self.name)
        return Session(ir.Model(graph, ir_version=8))


_FLOAT = np.dtype(np.float32)


def _compare(expected: Array, got: Array, axis: int) -> Error:
    others = tuple(i for i in range(expected.ndim) if i != axis % expected.ndim)
    noise = np.square(got - expected, dtype=np.float64).sum(axis=others)
    return Error(noise, np.square(expected, dtype=np.float64).sum(axis=others))
