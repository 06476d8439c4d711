"""Layers of floats whose weights can be refitted."""

from __future__ import annotations

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
    """A Conv, Gemm or MatMul with a constant weight.

    Attributes:
        names: those of the model.
        array: the weight as it is stored.
        matrix: the weight as W [groups, inputs, outputs], float64.
        bias: what the node itself adds [groups, outputs], float64. The bias of a MatMul is that of
            the Add behind it, and zero here, for the output is looked at before that.
        centred: whether there is, or can be, a bias.
    """

    names: Names
    node: ir.Node
    array: Array
    matrix: Array
    bias: Array
    centred: bool

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
    def shape(self) -> tuple[int, int, int]:
        """Groups, inputs of a group, outputs of a group."""
        groups, inputs, outputs = self.matrix.shape
        return groups, inputs, outputs

    @staticmethod
    def of(names: Names, node: ir.Node) -> Linear | str | None:
        """`node`; why it cannot be refitted; None if it has no weight."""
        weight = node.inputs[1]
        array = constant_array(weight)
        if weight is None or array is None:
            return None
        if array.dtype.kind != "f":
            return f"its weight is {array.dtype}"
        if len(weight.uses()) > 1:
            return "its weight is shared with another node"
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = None if given is None else constant_array(given)
        matrix: Array
        if is_standard(node, "Conv"):
            matrix = conv_matrix(array, node.attributes.get_int("group", 1))
        elif is_standard(node, "Gemm"):
            plain = [node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta")]
            if node.attributes.get_int("transA", 0) or not all(plain):
                return "it transposes or scales"
            turned = array.T if node.attributes.get_int("transB", 0) else array
            matrix = turned.astype(np.float64)[None]
        elif array.ndim != 2:
            return f"its weight has {array.ndim} axes"
        else:
            matrix = array.astype(np.float64)[None]
        outputs = matrix.shape[0] * matrix.shape[2]
        if given is not None and (bias is None or not is_per_output(bias, outputs)):
            return "its bias is not one number per channel"
        flat = np.zeros(outputs) if bias is None else bias.astype(np.float64).reshape(-1)
        centred = not is_standard(node, "MatMul") or adder_behind(node) is not None
        return Linear(names, node, array, matrix, flat.reshape(len(matrix), -1), centred)

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
        return conv_rows(x, y, geometry, len(self.matrix), rows)

    def stored(self, matrix: Array) -> Array:
        """`matrix` as the weight of the node, in its shape and type."""
        weight = matrix[0]
        if self.is_conv:
            weight = conv_weight(matrix, self.array.shape)
        elif self.node.attributes.get_int("transB", 0):
            weight = weight.T
        return np.asarray(weight.astype(self.array.dtype))

    def write(self, matrix: Array, bias: Array) -> None:
        """Sets the weight to `matrix` and the bias to `bias`; a MatMul's is added behind it."""
        self._set(self.node, 1, self.stored(matrix))
        flat = bias.reshape(-1)
        if not is_standard(self.node, "MatMul"):
            self._set(self.node, 2, flat)
        elif (behind := adder_behind(self.node)) is not None:
            self._set(*behind, added_behind(self.node) + flat)

    def _set(self, node: ir.Node, index: int, array: Array) -> None:
        """Gives `node` its own constant, in the type of the weight."""
        base = f"{label(node)}.bias"
        set_constant(self.names, node, index, array.astype(self.array.dtype), base)


def is_per_output(bias: Array, outputs: int) -> bool:
    """Whether `bias` holds a number for each output: along the last axis, not a Gemm's rows."""
    return bias.size == outputs and bias.shape[-1:] in ((), (outputs,))


def added_behind(node: ir.Node) -> Array:
    """What the Add behind a MatMul adds, float64; zero if there is none."""
    behind = adder_behind(node) if is_standard(node, "MatMul") else None
    array = None if behind is None else constant_array(behind[0].inputs[behind[1]])
    return np.zeros(()) if array is None else array.astype(np.float64)
