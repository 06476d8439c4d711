"""Layers that read what is rescaled, and how much they err when they are quantized."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.calibration import Histogram
from graphopt.ir import is_standard, label
from graphopt.quantization import dequantize, fake_quantize, get_format
from graphopt.runtime.session import Session
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.equalize.groups import Channels, Factors, scaled
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.grids import Grid, choose_data_range, grid_of
from graphopt_passes.quantize.weights import quantize_weight

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Error:
    """What quantizing does to an output, by channel: sums over samples and places."""

    noise: NDArray[np.float64]
    """Of the squared error."""
    total: NDArray[np.float64]
    square: NDArray[np.float64]
    count: int

    @staticmethod
    def of(expected: Array, got: Array, axis: int) -> Error:
        others = tuple(i for i in range(expected.ndim) if i != axis % expected.ndim)
        return Error(
            np.square(got - expected, dtype=np.float64).sum(axis=others),
            expected.sum(axis=others, dtype=np.float64),
            np.square(expected, dtype=np.float64).sum(axis=others),
            expected.size // expected.shape[axis],
        )

    @staticmethod
    def none() -> Error:
        return Error(np.zeros(1), np.zeros(1), np.zeros(1), 0)

    def __add__(self, other: Error) -> Error:
        return Error(
            self.noise + other.noise,
            self.total + other.total,
            self.square + other.square,
            self.count + other.count,
        )

    @property
    def signal(self) -> NDArray[np.float64]:
        """The squared distances from the mean: a bias may cancel that."""
        return np.maximum(self.square - self.total**2 / max(self.count, 1), 0)

    @property
    def by_channel(self) -> float:
        """The noise as a part of the signal, averaged over the channels that have any.

        The scale of an output channel may be as arbitrary as that of an input channel. What is
        worse than lost counts as lost.
        """
        signal = self.signal
        alive = signal > 0
        if not alive.any():
            return 0.0
        return float(np.minimum(self.noise[alive] / signal[alive], 1).mean())

    @property
    def whole(self) -> float:
        """The noise as a part of the signal, over all channels."""
        signal = self.signal.sum()
        return float(self.noise.sum() / signal) if signal else 0.0


class Reader(ABC):
    """Something that reads a tensor of channels that can be scaled, and reads it quantized."""

    def __init__(
        self, node: ir.Node, value: ir.Value, channels: Channels, rules: QuantizationRules
    ) -> None:
        self.node = node
        self.name = label(node)
        self.value = str(value.name)
        self.numbers = channels.of(value)
        """Of the channels of the tensor."""
        self.weight_numbers = channels.numbers(None)
        """Of these, as they lie in its weight, if it has one."""
        self._numbers = rules.numbers

    def grid(self, data: Sequence[Array], factors: Factors, method: str) -> Grid:
        """The numbers that the tensor can take, rescaled by `factors`; see `choose_range`."""
        factor = factors[self.numbers].astype(np.float32)
        histogram = Histogram.merge_all(Histogram.of(array * factor) for array in data)
        kept = choose_data_range(histogram, method, self._numbers)
        return grid_of(kept, self._numbers, np.dtype(np.float32))

    def weight_peaks(self, peaks: Factors, factors: Factors) -> Factors:
        """The largest magnitude of the weights that read each channel, by number, where each output
        channel is in units of the largest product of a weight and a channel's peak in it."""
        return np.zeros(len(factors))

    @abstractmethod
    def error(self, data: Sequence[Array], factors: Factors, grid: Grid) -> Error:
        """What quantizing all that is rescaled by `factors` does to what it gives.

        Args:
            grid: that of the tensor.
        """

    def _rounded(self, array: Array, factors: Factors, grid: Grid) -> Array:
        """`array`, rescaled by `factors`, quantized and dequantized."""
        factor = factors[self.numbers].astype(np.float32)
        format = get_format(self._numbers.data)
        return fake_quantize(array * factor, grid.scale, grid.zero_point, format)


class Skip(Reader):
    """The sum at the end of a residual block, as it reads the quantized skip."""

    def error(self, data: Sequence[Array], factors: Factors, grid: Grid) -> Error:
        factor = factors[self.numbers].astype(np.float32)
        total = Error.none()
        for array in data:
            got = self._rounded(array, factors, grid) / factor
            axes = [a for a, n in enumerate(self.numbers.shape) if n > 1]
            total += Error.of(array, got, axes[0] if axes else 0)
        return total


class Layer(Reader):
    """A layer whose data and weight will be quantized."""

    def __init__(self, candidate: Candidate, channels: Channels, rules: QuantizationRules) -> None:
        super().__init__(candidate.node, candidate.data, channels, rules)
        slot = channels.slot_at(self.node, 1)
        self.weight_numbers = channels.numbers(None if slot is None else slot.down)
        self._weight = candidate.tensor.numpy()
        self._axis = candidate.axis
        self._format = get_format(rules.numbers.weight)

    def weight_peaks(self, peaks: Factors, factors: Factors) -> Factors:
        weight = np.abs(self._weight.astype(np.float64)) / factors[self.weight_numbers]
        others = tuple(i for i in range(weight.ndim) if i != self._axis)
        carried = (weight * peaks[self.weight_numbers]).max(axis=others, keepdims=True)
        weight = np.divide(weight, carried, where=carried > 0, out=np.zeros_like(weight))
        found = np.zeros(len(factors))
        np.maximum.at(found, np.broadcast_to(self.weight_numbers, weight.shape), weight)
        return found

    def error(self, data: Sequence[Array], factors: Factors, grid: Grid) -> Error:
        weight = scaled(self._weight, 1 / factors[self.weight_numbers])
        limits = self._format.symmetric_limits
        quantized = quantize_weight(weight, self._axis, limits, format=self._format)
        wide = quantized.scale.astype(np.float32)
        rounded = dequantize(quantized.data, wide, None, self._format, axis=self._axis)
        axis = 1 if is_standard(self.node, "Conv") else -1
        total = Error.none()
        for array in data:
            expected = self._run(array, self._weight.astype(np.float32))
            got = self._run(self._rounded(array, factors, grid), rounded)
            total += Error.of(expected, got, axis)
        return total

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
        rank = self._weight.ndim
        inputs = [
            ir.Value(name=name, type=kind, shape=ir.Shape([None] * rank)) for name in ("x", "w")
        ]
        output = ir.Value(name="y", type=kind, shape=ir.Shape([None] * rank))
        attributes = list(self.node.attributes.values())
        node = ir.Node("", self.node.op_type, inputs, attributes, outputs=[output])
        graph = ir.Graph(inputs, [output], nodes=[node], opset_imports={"": 13}, name=self.name)
        return Session(ir.Model(graph, ir_version=8))
