"""Arithmetic and logic with a neutral element, and choices that are none."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.eliminate_noops.handing import noops

_BROADCASTS = 7  # before that opset, binary operators broadcast on request

# Larger constants are not looked into.
_MAX_ELEMENTS = 1 << 16

# What can stand between a number and a constant full of it.
_SPREADS = ("Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze")
_MAX_SPREADS = 4

# The neutral element of each operator and the inputs that may be it. That of a float addition is
# -0.0: -0.0 plus +0.0 is +0.0, and -0.0 minus -0.0 is, too.
_NEUTRAL = {
    "Add": (-0.0, (1, 0)),
    "And": (1.0, (1, 0)),
    "BitShift": (0.0, (1,)),
    "BitwiseOr": (0.0, (1, 0)),
    "BitwiseXor": (0.0, (1, 0)),
    "Div": (1.0, (1,)),
    "Mul": (1.0, (1, 0)),
    "Or": (0.0, (1, 0)),
    "PRelu": (1.0, (1,)),
    "Pow": (1.0, (1,)),
    "Sub": (0.0, (1,)),
    "Xor": (0.0, (1, 0)),
}
_ZERO = ir.tensor([0.0], ir.DataType.FLOAT)  # what a ConstantOfShape is full of by default
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def is_filled(value: ir.Value | None, number: float, at: Rewriter) -> bool:
    """Whether every element of `value`, of which there are some, surely is `number`.

    Zeros of floating-point numbers count as equal only if their signs are.
    """
    for _ in range(_MAX_SPREADS):
        node = at.producer(value, "ConstantOfShape", *_SPREADS)
        if node is None:
            break
        if node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            return _holds(_ZERO if fill is None else fill.value, number)
        value = node.inputs[0]
    tensor = constant_tensor(value)
    return tensor is not None and _holds(tensor, number)


def _holds(tensor: ir.TensorProtocol, number: float) -> bool:
    dtype = tensor.dtype
    if not 0 < tensor.size <= _MAX_ELEMENTS or dtype == ir.DataType.STRING:
        return False
    array = tensor.numpy().reshape(-1)
    if array.dtype.kind == "c" or float(array[0]) != number:
        return False
    if number == 0 and dtype.is_floating_point():
        sign = math.copysign(1.0, number) < 0
        return not array.astype(bool).any() and bool(
            (np.signbit(array.astype(np.float64)) == sign).all()
        )
    return bool((array == array[0]).all())


def _neutral(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """The other operand of a neutral element, if it keeps its shape."""
    if at.opset < _BROADCASTS or len(node.inputs) != 2:
        return None
    number, sides = _NEUTRAL[node.op_type]
    for side in sides:
        element, other = node.inputs[side], node.inputs[1 - side]
        if is_filled(element, number, at) and at.keeps_shape(element, other):
            # Of large integers a power is a rounded one, since it is formed in floats.
            return None if node.op_type == "Pow" and at.dtype(other) not in _FLOATS else other
        if node.op_type in ("Add", "Sub") and is_filled(element, -number, at):
            _decline_zero(node, element, other, at)
    return None


def _decline_zero(
    node: ir.Node, element: ir.Value | None, other: ir.Value | None, at: Rewriter
) -> None:
    """Declines a sum with the zero of the wrong sign if the sign is all that speaks against it."""
    if at.keeps_shape(element, other):
        zero = "+0.0" if node.op_type == "Add" else "-0.0"
        raise DeclinedError(f"with {zero} it makes +0.0 of -0.0")


def _same_twice(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """x And x, x Or x."""
    same = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    return node.inputs[0] if same else None


def _where(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """The branch that is always taken, or that both are, if it keeps its shape."""
    condition, yes, no = node.inputs
    if yes is no:
        return yes if at.keeps_shape(condition, yes) else None
    for chosen, other, number in ((yes, no, 1.0), (no, yes, 0.0)):
        if is_filled(condition, number, at):
            fits = at.keeps_shape(condition, chosen) and at.keeps_shape(other, chosen)
            return chosen if fits else None
    return None


def _single(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """A Sum, Max, Min or Mean of one operand."""
    return node.inputs[0] if len(node.inputs) == 1 else None


def _clip(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """A Clip to bounds that its type has anyway."""
    dtype = at.dtype(node.inputs[0])
    if dtype is None or at.opset < 11:  # an older one is of floats
        return None
    bounds = [value for value in node.inputs[1:] if value is not None]
    if dtype in _FLOATS:
        if not bounds:
            raise DeclinedError("without bounds it makes an infinity the largest number")
        infinite = [at.scalar(bound) for bound in bounds] == [-math.inf, math.inf]
        return node.inputs[0] if infinite else None
    if not dtype.is_integer() or dtype.bitwidth < 8:
        return None
    limits = np.iinfo(dtype.numpy())
    for index, limit in ((1, limits.min), (2, limits.max)):
        bound = node.inputs[index] if index < len(node.inputs) else None
        array = None if bound is None else at.small(bound)
        if bound is not None and (array is None or array.size != 1 or int(array.item()) != limit):
            return None
    return node.inputs[0]


def _leaky_relu(node: ir.Node, at: Rewriter) -> ir.Value | None:
    return node.inputs[0] if node.attributes.get_float("alpha", 0.01) == 1 else None


RULES = (
    *noops(_neutral, *_NEUTRAL),
    *noops(_same_twice, "And", "Or"),
    *noops(_where, "Where"),
    *noops(_single, "Max", "Mean", "Min", "Sum"),
    *noops(_clip, "Clip"),
    *noops(_leaky_relu, "LeakyRelu"),
)
