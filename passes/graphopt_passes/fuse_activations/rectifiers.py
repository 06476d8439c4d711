"""Relu and its kin: straight lines that bend at 0."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter, require_private
from graphopt_passes.fuse_activations.algebra import (
    TOLERANCE,
    number,
    require,
    step,
)
from graphopt_passes.fuse_activations.hard import clip_limits


def relu(node: ir.Node, at: Rewriter) -> bool:
    """max(x, 0), and a Clip to 0 and infinity, become Relu.

    A Clip without an upper limit is none: it makes the largest number of infinity.
    """
    x = _above_zero(node, at)
    if x is None or at.dtype(x) not in TOLERANCE or not at.has_operator("Relu", 6):
        return False
    at.become(node, "Relu", [x])
    return True


def _above_zero(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """x if `node` is max(x, 0), infinity included."""
    if node.op_type == "Max":
        return _beside_zero(node, at)
    has_limit = len(node.inputs) == 3 and node.inputs[2] is not None
    if not has_limit or clip_limits(node, at) != (0.0, math.inf):
        return None
    return node.inputs[0]


def _beside_zero(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """x if the inputs of `node`, Min or Max, are x and 0."""
    if len(node.inputs) != 2 or at.opset < 8:
        return None
    for index in (1, 0):
        if number(node, index, at) == 0.0:
            return node.inputs[1 - index]
    return None


def leaky_relu_by_max(node: ir.Node, at: Rewriter) -> bool:
    """max(x, a * x) becomes LeakyRelu; 0 < a < 1."""
    if len(node.inputs) != 2 or at.opset < 8:
        return False
    for index in (0, 1):
        x, line = node.inputs[1 - index], at.producer(node.inputs[index], "Mul", "Div")
        more = None if line is None else step(line, at)
        if more is None or more.value is not x or not 0.0 < more.scale < 1.0:
            continue
        if at.dtype(x) not in TOLERANCE:
            return False
        require(at, "LeakyRelu", 6, more.value)
        require_private(node, [more.value])
        at.become(node, "LeakyRelu", [more.value], {"alpha": more.scale})
        return True
    return False


def prelu(node: ir.Node, at: Rewriter) -> bool:
    """relu(x) - a * relu(-x), and the same with min(x, 0), become LeakyRelu or PRelu."""
    for index in (1, 0) if node.op_type == "Add" else (1,):
        x = _positive_part(node.inputs[1 - index], at)
        if x is None or at.dtype(x) not in TOLERANCE:
            continue
        slope = _slope(node.inputs[index], x, at)
        if slope is None:
            continue
        return _become_prelu(node, x, slope if node.op_type == "Add" else -slope, at)
    return False


def _positive_part(value: ir.Value | None, at: Rewriter) -> ir.Value | None:
    """x if `value` is max(x, 0)."""
    node = at.producer(value, "Relu", "Max")
    if node is None:
        return None
    return node.inputs[0] if node.op_type == "Relu" else _beside_zero(node, at)


def _slope(value: ir.Value | None, x: ir.Value, at: Rewriter) -> np.ndarray | None:
    """a, of any shape that keeps that of `x`, if `value` is a * min(x, 0)."""
    node = at.producer(value, "Mul")
    if node is None or at.opset < 8:
        return None
    for index in (0, 1):
        if not at.is_constant(node.inputs[index]):
            continue
        sign = _negative_part(node.inputs[1 - index], x, at)
        if sign != 0 and at.keeps_shape(node.inputs[index], x):
            slope = at.array(node.inputs[index])
            return None if slope is None else sign * slope
    return None


def _negative_part(value: ir.Value | None, x: ir.Value, at: Rewriter) -> int:
    """1 if `value` is min(x, 0), -1 if it is relu(-x), which is the opposite, 0 if neither."""
    node = at.producer(value, "Relu", "Min")
    if node is None:
        return 0
    if node.op_type == "Min":
        return int(_beside_zero(node, at) is x)
    inside = at.producer(node.inputs[0], "Neg", "Mul")
    more = None if inside is None else step(inside, at)
    turned = more is not None and more.value is x and (more.scale, more.shift) == (-1.0, 0.0)
    return -int(turned)


def _become_prelu(node: ir.Node, x: ir.Value, slope: np.ndarray, at: Rewriter) -> bool:
    single = slope.size == 1
    require(at, "LeakyRelu" if single else "PRelu", 6 if single else 9, x)
    require_private(node, [x])
    if single:
        at.become(node, "LeakyRelu", [x], {"alpha": float(slope.reshape(-1)[0])})
    else:
        held = at.constant(np.asarray(slope), f"{node.outputs[0].name}_slope", node)
        at.become(node, "PRelu", [x, held])
    return True


def prelu_by_where(node: ir.Node, at: Rewriter) -> bool:
    """x where it is not negative and a * x elsewhere becomes LeakyRelu or PRelu."""
    test = at.producer(node.inputs[0], "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
    if test is None or number(test, 1, at) != 0.0:
        return False
    x, negative = test.inputs[0], test.op_type.startswith("Less")
    line = at.producer(node.inputs[1 if negative else 2], "Mul")
    if x is None or line is None or node.inputs[2 if negative else 1] is not x:
        return False
    index = int(line.inputs[0] is x)
    slope = line.inputs[index]
    if line.inputs[1 - index] is not x or slope is None or not at.keeps_shape(slope, x):
        return False
    if at.dtype(x) not in TOLERANCE:
        return False
    array = at.small(slope)
    if array is not None and array.size == 1:
        return _become_prelu(node, x, array, at)
    require(at, "PRelu", 9, x)
    require_private(node, [x, slope])
    at.become(node, "PRelu", [x, slope])
    return True


def prelu_of_a_number(node: ir.Node, at: Rewriter) -> bool:
    """PRelu with one slope for all becomes LeakyRelu, which has no kernel for double."""
    slope, x = at.scalar(node.inputs[1]), node.inputs[0]
    if slope is None or x is None or at.opset < 7:
        return False
    if not at.keeps_shape(node.inputs[1], x):
        return False
    if at.dtype(x) not in TOLERANCE or at.dtype(x) == ir.DataType.DOUBLE:
        return False
    if not at.has_operator("LeakyRelu", 6):
        return False
    at.become(node, "LeakyRelu", [x], {"alpha": slope})
    return True
