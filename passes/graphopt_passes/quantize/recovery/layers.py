"""A quantized layer as a linear problem, whatever operator it is."""

from __future__ import annotations

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

Array: TypeAlias = "NDArray[Any]"

INTEGERS = ir.DataType.INT8
"""What the weights are that are rounded anew."""


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
        weight = self.node.inputs[self._rule.weight]
        assert weight is not None
        producer = weight.producer()
        assert producer is not None
        self._weight = producer
        self._reference = reference
        self._stored = _array(producer.inputs[0])
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
        if len(_array(producer.inputs[1]).shape) != 1:
            return "its weight has no scale for each channel"
        if node.attributes.get_float("alpha", 1.0) <= 0:
            return "its alpha is not positive"
        return _doubts_bias(node)

    @property
    def name(self) -> str:
        return str(self.node.outputs[0].name)

    @property
    def can_shift(self) -> bool:
        """Whether there is, or can be, a bias to correct."""
        return (self.operator != "MatMul" or self._adder is not None) and self._beta != 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, inputs of a group, outputs of a group."""
        groups, inputs, outputs = self._matrix(self._stored).shape
        return groups, inputs, outputs

    def integers(self) -> Array:
        return self._matrix(self._stored)

    def scale(self) -> Array:
        scale = _array(self._weight.inputs[1]).astype(np.float64)
        return scale.reshape(self.groups, -1)

    def reference(self) -> Array:
        """The float weight, [groups, inputs, outputs]."""
        return self._matrix(_array(self._reference.inputs[self._rule.weight]))

    def bias(self) -> Array:
        """What the operator itself adds, [groups, outputs]: zeros for a MatMul."""
        outputs = self._stored.shape[self._axis]
        value = self._bias_input()
        flat = np.zeros(outputs)
        if value is not None:
            flat = self._beta * np.broadcast_to(_array(value).astype(np.float64), (1, outputs))[0]
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

    def write(self, names: Names, integers: Array, scale: Array, shift: Array | None) -> None:
        """Stores other integers and scales, as `stored_scale` gave them; adds alpha times `shift` to the bias.

        Args:
            names: those of the layer's model.
            shift: [groups, outputs], or None if the bias stays as it is.
        """
        stored = self._tensor(integers).astype(self._stored.dtype)
        old = _array(self._weight.inputs[1])
        self._stored = stored
        set_constant(names, self._weight, 0, stored, "")
        set_constant(names, self._weight, 1, scale.reshape(-1).astype(old.dtype), "")
        if shift is not None and shift.any():
            self._shift(names, self._alpha * shift.reshape(-1))

    def _shift(self, names: Names, shift: Array) -> None:
        dtype = _array(self._weight.inputs[1]).dtype
        if self._adder is not None:
            node, index = self._adder
            old = _array(node.inputs[index])
            set_constant(names, node, index, (old.astype(np.float64) + shift).astype(dtype), "")
            return
        bias = (self.bias().reshape(-1) + shift) / self._beta
        base = f"{self.node.name or self.name}.bias"
        set_constant(names, self.node, 2, bias.astype(dtype), base)

    def _bias_input(self) -> ir.Value | None:
        inputs = self.node.inputs
        return inputs[2] if self.operator != "MatMul" and len(inputs) > 2 else None

    def _matrix(self, tensor: Array) -> Array:
        """A weight as [groups, inputs, outputs], float64."""
        if self.operator == "Conv":
            return conv_matrix(tensor, self.groups)
        return (tensor.T if self._axis == 0 else tensor).astype(np.float64)[None]

    def _tensor(self, matrix: Array) -> Array:
        """`_matrix` undone."""
        if self.operator == "Conv":
            return conv_weight(matrix, self._stored.shape)
        return matrix[0].T if self._axis == 0 else matrix[0]


def _doubts_bias(node: ir.Node) -> str | None:
    """Why nothing can be said about what `node` adds, or None."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or is_standard(node, "MatMul"):
        return None
    array = constant_array(value)
    if array is None:
        return "its bias is quantized or computed"
    if array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
        return "its bias is not one number for each channel"
    return None


def _array(value: ir.Value | None) -> Array:
    array = constant_array(value)
    assert array is not None
    return array

