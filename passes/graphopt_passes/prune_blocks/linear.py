"""Layers whose weights can be refitted, and the residual sums that they end in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import Names, constant_array, is_standard, label, sole_use
from graphopt.reconstruction import adder_behind, conv_matrix, conv_weight, set_constant
from graphopt_passes.prune_blocks.dropping import Array

NOTHING = 1e-3
"""A channel that is scaled by less than so much of the largest scale makes up for nothing."""


@dataclass(frozen=True)
class Linear:
    """A Conv, Gemm or MatMul with a constant weight.

    Attributes:
        array: the weight as it is stored.
        matrix: the weight as W [groups, inputs, outputs], float64.
        bias: what the node itself adds [groups, outputs], float64. The bias of a MatMul is that of
            the Add behind it, and zero here, for the output is looked at before that.
        centred: whether there is, or can be, a bias.
    """

    model: ir.Model
    node: ir.Node
    array: Array
    matrix: Array
    bias: Array
    centred: bool

    @property
    def name(self) -> str:
        return label(self.node)

    @property
    def is_conv(self) -> bool:
        return is_standard(self.node, "Conv")

    @staticmethod
    def of(model: ir.Model, node: ir.Node) -> Linear | str | None:
        """`node` of `model`; why it cannot be refitted; None if it has no weight."""
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
        if given is not None and (bias is None or bias.size != outputs):
            return "its bias is not one number per channel"
        flat = np.zeros(outputs) if bias is None else bias.astype(np.float64).reshape(-1)
        centred = not is_standard(node, "MatMul") or adder_behind(node) is not None
        return Linear(model, node, array, matrix, flat.reshape(len(matrix), -1), centred)

    def write(self, matrix: Array, bias: Array) -> None:
        """Sets the weight to `matrix` and the bias to `bias`; a MatMul's is added behind it."""
        weight = matrix[0]
        if self.is_conv:
            weight = conv_weight(matrix, self.array.shape)
        elif self.node.attributes.get_int("transB", 0):
            weight = weight.T
        self._set(self.node, 1, weight)
        flat = bias.reshape(-1)
        if not is_standard(self.node, "MatMul"):
            self._set(self.node, 2, flat)
        elif (behind := adder_behind(self.node)) is not None:
            adder, index = behind
            old = constant_array(adder.inputs[index])
            assert old is not None
            self._set(adder, index, old.astype(np.float64) + flat)

    def _set(self, node: ir.Node, index: int, array: Array) -> None:
        """Gives `node` its own constant, in the type of the weight."""
        base = f"{label(node)}.bias"
        set_constant(Names(self.model), node, index, array.astype(self.array.dtype), base)


@dataclass(frozen=True)
class Residual:
    """The sum behind a layer.

    Attributes:
        original, now: the other operand in the original model, and in the changed one.
        undo: what leads from a change of the sum back to one of the layer's output.
    """

    original: str
    now: str
    undo: tuple[Callable[[Array], Array], ...]

    def lacking(self, original: Iterator[Array], now: Iterator[Array]) -> Iterator[Array]:
        """What the layer must give on top, for the sum to be what it was."""
        for one, other in zip(original, now, strict=True):
            lack = one.astype(np.float64) - other.astype(np.float64)
            for step in reversed(self.undo):
                lack = step(lack)
            yield lack


def residual_behind(node: ir.Node, original: Mapping[str | None, ir.Node]) -> Residual | None:
    """The sum of two varying operands that the output of `node` goes to.

    On the way there may be what moves or scales each channel: a bias, a normalization, a Transpose.

    Args:
        original: the nodes of the original model by the names of their first outputs.
    """
    value = node.outputs[0]
    undo: list[Callable[[Array], Array]] = []
    while (user := sole_use(value)) is not None and user.graph is node.graph:
        step = _step(user, value)
        if step is not None:
            undo.append(step)
            value = user.outputs[0]
            continue
        before = original.get(user.outputs[0].name)
        if not is_standard(user, "Add") or before is None or not is_standard(before, "Add"):
            return None
        other = 1 - user.inputs.index(value)
        now, then = user.inputs[other], before.inputs[other]
        if now is None or then is None or constant_array(now) is not None:
            return None
        return Residual(str(then.name), str(now.name), tuple(undo))
    return None


def _step(node: ir.Node, value: ir.Value) -> Callable[[Array], Array] | None:
    """How to get from a change of what `node` gives to one of `value`, which it reads."""
    if is_standard(node, "Identity"):
        return lambda lack: lack
    if is_standard(node, "Transpose"):
        perm = node.attributes.get_ints("perm", ())
        return _turned(tuple(int(i) for i in np.argsort(perm)) or None)
    if is_standard(node, "Add", "Mul"):
        constant = constant_array(node.inputs[1 - node.inputs.index(value)])
        if constant is None:
            return None
        return _scaled(constant) if node.op_type == "Mul" else (lambda lack: lack)
    if is_standard(node, "BatchNormalization") and node.inputs[0] is value:
        scale, variance = constant_array(node.inputs[1]), constant_array(node.inputs[4])
        if scale is None or variance is None:
            return None
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return _scaled(factor, axis=1)
    return None


def _turned(perm: Sequence[int] | None) -> Callable[[Array], Array]:
    return lambda lack: lack.transpose(perm)


def _scaled(factor: Array, axis: int | None = None) -> Callable[[Array], Array]:
    """Divides by `factor`, which lies along `axis`, or as numpy aligns it."""
    wide = factor.astype(np.float64)
    usable = np.abs(wide) > NOTHING * np.abs(wide).max(initial=0.0)
    inverse = np.divide(1.0, wide, where=usable, out=np.zeros_like(wide))

    def divided(lack: Array) -> Array:
        if axis is None:
            return lack * inverse
        return lack * inverse.reshape(-1, *[1] * (lack.ndim - 1 - axis))

    return divided
