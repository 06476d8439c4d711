"""What a layer should give, so that the network behind it is what it was.

By itself a layer should give what it gave originally. If its output goes to a residual sum, the sum
should be what it was: then it also makes up for what the other operand lacks by now (He, Zhang and
Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array, is_standard, sole_use
from graphopt_passes.prune_blocks.dropping import Array


@dataclass(frozen=True)
class Target:
    """A sum, two operands of which vary, that a layer's output goes to.

    Attributes:
        goal: the sum, by its name.
        other: the other operand in the changed model.
        undo: how to get back from the layer's operand to its output, the first step last.
    """

    goal: str
    other: str
    undo: tuple[Callable[[Array], Array], ...]

    def output(self, goal: Array, other: Array) -> Array:
        """What the layer should give, float64.

        Args:
            goal: what the sum was in the original model.
            other: what the other operand is now.
        """
        wanted = goal.astype(np.float64) - other.astype(np.float64)
        for step in reversed(self.undo):
            wanted = step(wanted)
        return wanted


def target_behind(node: ir.Node) -> Target | None:
    """The sum that the output of `node`, a layer of the changed model, goes to.

    On the way there may be what shifts or scales each channel, or moves it: a bias, a
    normalization, a Transpose; right behind a product with a matrix, a Reshape. None if something
    else comes first.
    """
    value = node.outputs[0]
    undo: list[Callable[[Array], Array]] = []
    in_rows = not is_standard(node, "Conv")
    while True:
        user = sole_use(value)
        if user is None or user.graph is not node.graph:
            return None
        step = _undo(user, value)
        if is_standard(user, "Reshape") and user.inputs[0] is value and in_rows:
            step = _to_rows(node)
        if step is None:
            break
        in_rows = in_rows and not is_standard(user, "Transpose")
        undo.append(step)
        value = user.outputs[0]
    if not is_standard(user, "Add"):
        return None
    other = user.inputs[1 - user.inputs.index(value)]
    if other is None or constant_array(other) is not None:
        return None
    return Target(str(user.outputs[0].name), str(other.name), tuple(undo))


def _to_rows(layer: ir.Node) -> Callable[[Array], Array] | None:
    """Back to rows of what `layer`, a product with a matrix, gives, for their order is the same."""
    weight = constant_array(layer.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    width = weight.shape[0 if layer.attributes.get_int("transB", 0) else 1]
    return lambda array: array.reshape(-1, width)


def _undo(node: ir.Node, value: ir.Value) -> Callable[[Array], Array] | None:
    """How to get from what `node` gives to `value`, which it reads."""
    if is_standard(node, "Identity"):
        return _affine(1.0, 0.0)
    if is_standard(node, "Transpose"):
        perm = node.attributes.get_ints("perm", None)
        back = None if perm is None else tuple(int(i) for i in np.argsort(perm))
        return lambda array: array.transpose(back)
    if is_standard(node, "Add", "Mul"):
        constant = constant_array(node.inputs[1 - node.inputs.index(value)])
        if constant is None:
            return None
        wide = constant.astype(np.float64)
        return _affine(wide, 0.0) if node.op_type == "Mul" else _affine(1.0, wide)
    if is_standard(node, "BatchNormalization") and node.inputs[0] is value:
        arrays = [constant_array(v) for v in node.inputs[1:5]]
        if any(array is None for array in arrays) or len(node.outputs) > 1:
            return None
        scale, shift, mean, variance = (np.asarray(a, dtype=np.float64) for a in arrays)
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return _affine(factor, shift - factor * mean, channels=True)
    return None


def _affine(
    factor: Array | float, shift: Array | float, *, channels: bool = False
) -> Callable[[Array], Array] | None:
    """What undoes x * factor + shift, both along the second axis if they are per channel."""
    if not np.all(factor):
        return None

    def undo(array: Array) -> Array:
        shape = (-1, *[1] * (array.ndim - 2)) if channels else None
        both = (np.asarray(x) if shape is None else np.reshape(x, shape) for x in (factor, shift))
        scaled_by, shifted_by = both
        return np.asarray((array - shifted_by) / scaled_by)

    return undo
