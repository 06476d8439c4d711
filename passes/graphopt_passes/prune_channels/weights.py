"""Reading and writing the weight and the bias of a layer, whatever operator it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Names, constant_array, label
from graphopt.reconstruction import adder_behind, conv_matrix, conv_weight, set_constant
from graphopt_passes.prune_channels.labelling import Layer

Array = NDArray[Any]


class LayerWeights:
    """The weight of a Conv, Gemm or MatMul as W [groups, inputs, outputs], and its bias.

    A bias is [groups, outputs], float64. The bias of a MatMul is the constant of the Add behind it.
    """

    def __init__(self, node: ir.Node, layer: Layer) -> None:
        self._node = node
        self._layer = layer
        self.groups = layer.groups
        if layer.kind == "Conv":
            self.groups = node.attributes.get_int("group", 1)
        self._alpha = node.attributes.get_float("alpha", 1.0)
        self._beta = node.attributes.get_float("beta", 1.0)
        array = constant_array(node.inputs[1])
        assert array is not None
        self.array: Array = array
        self._adder = adder_behind(node) if layer.kind == "MatMul" else None

    def declines(self) -> str | None:
        """Why the layer cannot be refitted, or None."""
        kind, node = self._layer.kind, self._node
        if kind == "ConvTranspose":
            return "a ConvTranspose is not refitted"
        if self.array.dtype.kind != "f" or self.array.dtype.itemsize < 2:
            return f"its weight is {self.array.dtype}"
        if len(self._layer.slot.uses) > 1:
            return "its weight is shared with another node"
        if kind == "Gemm" and (node.attributes.get_int("transA", 0) == 1 or not self._alpha):
            return "its input is transposed, or not used"
        if kind != "MatMul" and self._bias_input() is not None and self.bias() is None:
            return "its bias is not one number per channel"
        return None

    @property
    def sum(self) -> ir.Value:
        """The output with the bias in it."""
        return (self._adder[0] if self._adder is not None else self._node).outputs[0]

    def behind(self) -> Array:
        """What the Add behind a MatMul adds; zeros for other operators. [groups, outputs]"""
        outputs = self.array.shape[self._layer.out_axis]
        behind = np.zeros(outputs)
        if self._adder is not None:
            adder, index = self._adder
            array = constant_array(adder.inputs[index])
            assert array is not None
            behind = behind + array.astype(np.float64).reshape(-1)
        return behind.reshape(self.groups, -1)

    def offset(self) -> Array:
        """All that is added to what the channels give: `bias` and `behind`."""
        bias = self.bias()
        assert bias is not None
        return np.asarray(bias + self.behind())

    @property
    def centred(self) -> bool:
        """Whether there is, or can be, a bias that takes care of the means."""
        return self._layer.kind != "MatMul" or self._adder is not None

    def matrix(self) -> Array:
        if self._layer.kind == "Conv":
            return conv_matrix(self.array, self.groups)
        if self._layer.kind == "Gemm":
            turned = self.array.T if self._layer.in_axis == 1 else self.array
            return self._alpha * turned.astype(np.float64)[None]
        return self.array.astype(np.float64)[None]

    def bias(self) -> Array | None:
        """What the operator itself adds (zeros if it adds nothing), or None if it cannot be told.

        For a MatMul: zeros, since its output is looked at before the Add.
        """
        outputs = self.array.shape[self._layer.out_axis]
        zeros = np.zeros((self.groups, outputs // self.groups))
        value = self._bias_input()
        if value is None:
            return zeros
        array = constant_array(value)
        if array is None or array.ndim > 2 or (array.ndim == 2 and array.shape[0] != 1):
            return None
        if not self._beta:
            return None
        flat = np.broadcast_to(array.astype(np.float64).reshape(-1), (outputs,))
        return np.asarray(self._beta * flat.reshape(zeros.shape))

    def write(self, names: Names, matrix: Array, bias: Array) -> None:
        """Sets the weight to `matrix`; the bias to `bias`, or (MatMul) adds it behind.

        Args:
            names: those of the layer's model.
        """
        kind = self._layer.kind
        if kind == "Conv":
            weight = conv_weight(matrix, self.array.shape)
        elif kind == "Gemm":
            plain = matrix[0] / self._alpha
            weight = plain.T if self._layer.in_axis == 1 else plain
        else:
            weight = matrix[0]
        self._set(names, self._node, 1, weight)
        flat = bias.reshape(-1)
        if kind != "MatMul":
            self._set(names, self._node, 2, flat / (self._beta if kind == "Gemm" else 1.0))
        elif self._adder is not None:
            adder, index = self._adder
            old = constant_array(adder.inputs[index])
            assert old is not None
            self._set(names, adder, index, old.astype(np.float64) + flat)

    def _bias_input(self) -> ir.Value | None:
        if self._layer.kind == "MatMul" or len(self._node.inputs) < 3:
            return None
        return self._node.inputs[2]

    def _set(self, names: Names, node: ir.Node, index: int, array: Array) -> None:
        """Gives `node` its own constant, in the type of the weight."""
        base = f"{label(node)}.bias"
        set_constant(names, node, index, array.astype(self.array.dtype), base)
