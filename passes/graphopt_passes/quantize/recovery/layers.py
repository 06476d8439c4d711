"""A quantized layer as a linear problem, whatever operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Names, constant_array, constant_tensor, is_standard
from graphopt.reconstruction import (
    Geometry,
    adder_behind,
    conv_matrix,
    conv_rows,
    conv_weight,
    is_own,
    matrix_rows,
    set_constant,
)
from graphopt.targets.quantization import OperatorRule
from graphopt_passes.quantize.weights import QuantizedWeight, least_scale, quantize_bias

Array: TypeAlias = "NDArray[Any]"

INTEGERS = ir.DataType.INT8
"""What the weights are that are rounded anew."""


@dataclass(frozen=True)
class IntegerWeight:
    """A weight W ~ integers * scale, and what the bias gains.

    Attributes:
        integers: [groups, inputs, outputs], float64.
        scale: [groups, outputs], float64, each exact in the dtype that it is stored in.
        shift: [groups, outputs], or None for nothing.
    """

    integers: Array
    scale: Array
    shift: Array | None = None

    @property
    def matrix(self) -> Array:
        return self.integers * self.scale[:, None, :]


class IntegerLayer:
    """A Conv, Gemm or MatMul that multiplies by integers with a scale for each output.

    Y = alpha X (Q s) + bias, with Q [groups, inputs, outputs] integers, and s and the bias
    [groups, outputs], all float64. The bias of a MatMul is the constant of the Add behind it.
    """

    def __init__(self, node: ir.Node, reference: ir.Node, rule: OperatorRule, axis: int) -> None:
        """Takes a layer that `declines` has nothing against.

        Args:
            reference: the same node in the float model.
            axis: that of the weight's output channels.
        """
        self.node, self._rule, self._axis = node, rule, axis
        self.operator = self.node.op_type
        self.groups = 1
        if self.operator == "Conv":
            self.groups = self.node.attributes.get_int("group", 1)
        self._alpha = self._beta = 1.0
        if self.operator == "Gemm":
            self._alpha = self.node.attributes.get_float("alpha", 1.0)
            self._beta = self.node.attributes.get_float("beta", 1.0)
        producer = _input(node, rule.weight).producer()
        assert producer is not None
        self._weight = producer
        self._reference = reference
        self._stored = _array(producer.inputs[0])
        self.dtype = _array(producer.inputs[1]).dtype
        bias = self._bias_input()
        self._integer_bias = None if bias is None else bias.producer()
        if self._integer_bias is not None and is_standard(self._integer_bias, "Constant"):
            self._integer_bias = None
        self._adder = adder_behind(self.node) if self.operator == "MatMul" else None

    @staticmethod
    def declines(node: ir.Node, reference: ir.Node | None, rule: OperatorRule) -> str | None:
        """Why the layer cannot be changed, or None."""
        if reference is None or reference.op_type != node.op_type:
            return "the float model has no such layer"
        if constant_tensor(reference.inputs[rule.weight]) is None:
            return "the float model has no constant weight for it"
        weight = node.inputs[rule.weight]
        producer = None if weight is None else weight.producer()
        if producer is None or not is_standard(producer, "DequantizeLinear"):
            return "its weight is not quantized"
        if len(producer.outputs[0].uses()) > 1:
            return "its weight is shared with another node"
        stored = constant_tensor(producer.inputs[0])
        if stored is None or stored.dtype != INTEGERS:
            return f"its weight is not {INTEGERS.name.lower()}"
        if not all(v is not None and is_own(v) for v in producer.inputs[:2]):
            return "its weight or scale is shared with another node"
        zero = producer.inputs[2] if len(producer.inputs) > 2 else None
        if zero is not None and _array(zero).any():
            return "its weight has a zero point"
        if _array(producer.inputs[1]).ndim != 1:
            return "its weight has no scale for each channel"
        if node.attributes.get_float("alpha", 1.0) <= 0:
            return "its alpha is not positive"
        return _doubts_bias(node)

    @property
    def name(self) -> str:
        return str(self.node.outputs[0].name)

    @property
    def data(self) -> str:
        """The name of what it reads."""
        return str(_input(self.node, self._rule.data).name)

    @property
    def can_shift(self) -> bool:
        """Whether there is, or can be, a bias to correct."""
        return (self.operator != "MatMul" or self._adder is not None) and self._beta != 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, inputs of a group, outputs of a group."""
        groups, inputs, outputs = self._matrix(self._stored).shape
        return groups, inputs, outputs

    def weight(self) -> IntegerWeight:
        """What it multiplies by now."""
        scale = np.broadcast_to(_array(self._weight.inputs[1]), self._stored.shape[self._axis])
        return IntegerWeight(
            self._matrix(self._stored), scale.astype(np.float64).reshape(self.groups, -1)
        )

    def reference(self) -> Array:
        """The float weight, [groups, inputs, outputs]."""
        return self._matrix(_array(self._reference.inputs[self._rule.weight]))

    def bias(self) -> Array:
        """What the operator itself adds, [groups, outputs]: zeros for a MatMul."""
        outputs = self._stored.shape[self._axis]
        array = self._bias_array()
        flat = np.zeros(outputs)
        if array is not None:
            flat = self._beta * np.broadcast_to(array, (1, outputs))[0]
        return np.asarray(flat).reshape(self.groups, -1)

    def rows(self, x: Array, y: Array, rows: Array) -> tuple[Array, Array]:
        """X [groups, rows, inputs], and (Y - bias) / alpha [groups, rows, outputs], in some rows.

        Args:
            x: what the layer reads.
            y: what it is to give.
            rows: numbers of its output's rows, less than `row_count`.
        """
        if self.operator == "Conv":
            geometry = Geometry.of(self.node, self._stored.shape[2:], x.shape[2:], y.shape[2:])
            x, y = conv_rows(x, y, geometry, self.groups, rows)
        else:
            x, y = matrix_rows(x, y, rows)
        return x, (y - self.bias()[:, None]) / self._alpha

    def row_count(self, y: Array) -> int:
        """How many rows an output of the layer has."""
        axis = 1 if self.operator == "Conv" else -1
        return y.size // y.shape[axis] if y.shape[axis] else 0

    def least_scale(self) -> Array:
        """The least scales that are allowed, [groups, outputs]: a bias in int32 is to fit."""
        if self._integer_bias is None:
            return np.zeros_like(self.bias())
        return least_scale(self.bias(), self._data_scale())

    def write(self, names: Names, weight: IntegerWeight) -> QuantizedWeight:
        """Makes `weight` that of the layer, and adds alpha times its shift to the bias.

        Args:
            names: those of the layer's model.
        """
        bias = self.bias().reshape(-1)
        self._stored = self._tensor(weight.integers).astype(self._stored.dtype)
        scale = weight.scale.reshape(-1).astype(self.dtype)
        set_constant(names, self._weight, 0, self._stored, "")
        set_constant(names, self._weight, 1, scale, "")
        shift = np.zeros_like(bias)
        if weight.shift is not None:
            shift = self._alpha * weight.shift.reshape(-1)
        if self._integer_bias is not None:
            stored = quantize_bias(bias + shift, self._data_scale(), scale)
            set_constant(names, self._integer_bias, 0, stored.data, "")
            set_constant(names, self._integer_bias, 1, stored.scale, "")
        elif shift.any():
            self._shift(names, bias, shift)
        return QuantizedWeight(self._stored, scale)

    def _shift(self, names: Names, bias: Array, shift: Array) -> None:
        if self._adder is not None:
            node, index = self._adder
            old = _array(node.inputs[index])
            moved = old.astype(np.float64) + shift
            set_constant(names, node, index, moved.astype(old.dtype), "")
            return
        base = f"{self.node.name or self.name}.bias"
        set_constant(names, self.node, 2, ((bias + shift) / self._beta).astype(self.dtype), base)

    def _data_scale(self) -> Array:
        dequantize = _input(self.node, self._rule.data).producer()
        assert dequantize is not None
        return _array(dequantize.inputs[1]).reshape(())

    def _bias_input(self) -> ir.Value | None:
        inputs = self.node.inputs
        return inputs[2] if self.operator != "MatMul" and len(inputs) > 2 else None

    def _bias_array(self) -> Array | None:
        value = self._bias_input()
        if value is None:
            return None
        if self._integer_bias is None:
            return _array(value).astype(np.float64)
        stored, scale = (_array(v) for v in self._integer_bias.inputs[:2])
        return stored.astype(np.float64) * scale.astype(np.float64)

    def _matrix(self, tensor: Array) -> Array:
        """A weight as [groups, inputs, outputs], float64."""
        if self.operator == "Conv":
            return conv_matrix(tensor, self.groups)
        return (tensor.T if self._axis == 0 else tensor).astype(np.float64)[None]

    def _tensor(self, matrix: Array) -> Array:
        """`_matrix` undone."""
        if self.operator == "Conv":
            return conv_weight(matrix, self._stored.shape)
        return np.asarray(matrix[0].T if self._axis == 0 else matrix[0])


def _doubts_bias(node: ir.Node) -> str | None:
    """Why nothing can be said about what `node` adds, or None."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or is_standard(node, "MatMul"):
        return None
    producer = value.producer()
    if producer is not None and is_standard(producer, "DequantizeLinear"):
        stored = constant_array(producer.inputs[0])
        own = all(v is not None and is_own(v) for v in producer.inputs[:2])
        if stored is None or stored.dtype != np.int32 or not own or len(value.uses()) > 1:
            return "its bias is quantized, but not for it alone"
        return None
    array = constant_array(value)
    if array is None:
        return "its bias is computed"
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        return "its bias is not one number for each channel"
    return None


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _array(value: ir.Value | None) -> Array:
    array = constant_array(value)
    assert array is not None
    return array
