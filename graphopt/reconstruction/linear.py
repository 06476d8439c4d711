"""Layers of floats whose weights can be refitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Names, constant_array, is_standard, label
from graphopt.reconstruction.columns import (
    Geometry,
    conv_matrix,
    conv_rows,
    conv_weight,
    matrix_rows,
)
from graphopt.reconstruction.constants import adder_behind, set_constant

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Linear:
    """A Conv, Gemm or MatMul with a constant weight of its own.

    The matrix and the bias are made anew whenever they are asked for: those of all layers at once
    would be as large as the model, twice.

    Attributes:
        array: the weight as it is stored.
    """

    node: ir.Node
    array: Array

    @staticmethod
    def of(node: ir.Node) -> Linear | str | None:
        """`node`; why it cannot be refitted; None if it has no weight."""
        if not is_standard(node, "Conv", "Gemm", "MatMul"):
            return f"a {node.op_type} is not refitted"
        weight = node.inputs[1]
        array = constant_array(weight)
        if weight is None or array is None:
            return None
        if array.dtype.kind != "f" or array.dtype.itemsize < 2:
            return f"its weight is {array.dtype}"
        if len(weight.uses()) > 1:
            return "its weight is shared with another node"
        linear = Linear(node, array)
        if not linear.is_conv and array.ndim != 2:
            return f"its weight has {array.ndim} axes"
        if node.attributes.get_int("transA", 0) or not linear._alpha:
            return "its input is transposed, or not used"
        if not linear._beta:
            return "its bias is not used"
        given = linear._bias_input
        if given is not None and not is_per_output(constant_array(given), linear.outputs):
            return "its bias is not one number per channel"
        return linear

    @property
    def name(self) -> str:
        return label(self.node)

    @property
    def data(self) -> str:
        """The name of what it reads."""
        value = self.node.inputs[0]
        assert value is not None
        return str(value.name)

    @property
    def is_conv(self) -> bool:
        return is_standard(self.node, "Conv")

    @property
    def is_scaled(self) -> bool:
        """Whether a Gemm multiplies its product, or its bias, by a number."""
        return (self._alpha, self._beta) != (1.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, inputs of a group, outputs of a group."""
        if not self.is_conv:
            inputs, outputs = self.array.T.shape if self._turned else self.array.shape
            return 1, inputs, outputs
        groups: int = self.node.attributes.get_int("group", 1)
        return groups, math.prod(self.array.shape[1:]), self.array.shape[0] // groups

    @property
    def outputs(self) -> int:
        """Of all groups."""
        groups, _, outputs = self.shape
        return groups * outputs

    @property
    def matrix(self) -> Array:
        """The weight as W [groups, inputs, outputs], float64."""
        if self.is_conv:
            return conv_matrix(self.array, self.shape[0])
        turned = self.array.T if self._turned else self.array
        return self._alpha * turned.astype(np.float64)[None]

    @property
    def bias(self) -> Array:
        """What the node itself adds [groups, outputs], float64.

        The bias of a MatMul is that of the Add behind it, and zero here, for the output is looked
        at before that.
        """
        array = None if self._bias_input is None else constant_array(self._bias_input)
        flat = np.zeros(()) if array is None else array.astype(np.float64).reshape(-1)
        whole = self._beta * np.broadcast_to(flat, (self.outputs,))
        return np.asarray(whole.reshape(self.shape[0], -1))

    @property
    def behind(self) -> Array:
        """What the Add behind a MatMul adds; zeros for other operators. [groups, outputs]"""
        whole = np.broadcast_to(added_behind(self.node), (self.outputs,))
        return np.asarray(whole.reshape(self.shape[0], -1))

    @property
    def sum(self) -> ir.Value:
        """The output with the bias in it."""
        behind = self._adder
        return (self.node if behind is None else behind[0]).outputs[0]

    @property
    def centred(self) -> bool:
        """Whether there is, or can be, a bias that takes care of the means."""
        return not is_standard(self.node, "MatMul") or self._adder is not None

    @property
    def _adder(self) -> tuple[ir.Node, int] | None:
        return adder_behind(self.node) if is_standard(self.node, "MatMul") else None

    @property
    def _turned(self) -> bool:
        return bool(self.node.attributes.get_int("transB", 0))

    @property
    def _alpha(self) -> float:
        return float(self.node.attributes.get_float("alpha", 1.0))

    @property
    def _beta(self) -> float:
        return float(self.node.attributes.get_float("beta", 1.0))

    @property
    def _bias_input(self) -> ir.Value | None:
        inputs = () if is_standard(self.node, "MatMul") else self.node.inputs
        return inputs[2] if len(inputs) > 2 else None

    def row_count(self, y: Array) -> int:
        """How many rows an output of the layer has."""
        axis = 1 if self.is_conv else -1
        return y.size // y.shape[axis] if y.shape[axis] else 0

    def rows(self, x: Array, y: Array, rows: Array) -> tuple[Array, Array]:
        """X [groups, rows, inputs] and Y [groups, rows, outputs], float64, in some rows.

        Args:
            x: what the layer reads.
            y: what it is to give.
            rows: numbers of its output's rows, less than `row_count`.
        """
        if not self.is_conv:
            return matrix_rows(x, y, rows)
        geometry = Geometry.of(self.node, self.array.shape[2:], x.shape[2:], y.shape[2:])
        return conv_rows(x, y, geometry, self.shape[0], rows)

    def stored(self, matrix: Array) -> Array:
        """`matrix` as the weight of the node, in its shape and type."""
        if self.is_conv:
            weight = conv_weight(matrix, self.array.shape)
        else:
            plain = matrix[0] / self._alpha
            weight = plain.T if self._turned else plain
        return np.asarray(weight.astype(self.array.dtype))

    def write(self, names: Names, matrix: Array, bias: Array) -> None:
        """Sets the weight to `matrix` and the bias to `bias`; a MatMul's is added behind it.

        Args:
            names: those of the model.
        """
        self._set(names, self.node, 1, self.stored(matrix))
        flat = bias.reshape(-1)
        if not is_standard(self.node, "MatMul"):
            self._set(names, self.node, 2, flat / self._beta)
        elif (behind := self._adder) is not None:
            self._set(names, *behind, added_behind(self.node) + flat)

    def _set(self, names: Names, node: ir.Node, index: int, array: Array) -> None:
        """Gives `node` its own constant, in the type of the weight."""
        base = f"{label(node)}.bias"
        set_constant(names, node, index, array.astype(self.array.dtype), base)


def is_per_output(bias: Array | None, outputs: int) -> bool:
    """Whether `bias` holds one number, or one for each output: not one for each of Gemm's rows."""
    if bias is None:
        return False
    return bias.size == 1 or (bias.size == outputs and bias.shape[-1] == outputs)


def added_behind(node: ir.Node) -> Array:
    """What the Add behind a MatMul adds, float64; zero if there is none."""
    behind = adder_behind(node) if is_standard(node, "MatMul") else None
    array = None if behind is None else constant_array(behind[0].inputs[behind[1]])
    return np.zeros(()) if array is None else array.astype(np.float64)
