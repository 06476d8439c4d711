"""Arithmetic of one value with constant numbers, in whatever order an exporter has written it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.polynomial import polynomial as poly

from graphopt.rewriting import DeclinedError, Rewriter

TOLERANCE = {
    ir.DataType.DOUBLE: 2e-10,
    ir.DataType.FLOAT: 1e-6,
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
}
"""How far, relatively, a constant may be from the number that it stands for. Two roundings of it in
a 16-bit type; exporters write eight to ten digits for the others."""

NO_DOUBLE = frozenset(
    {"Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Softplus", "Softsign"}
)
"""What ONNX Runtime has no kernel for double for.

In some opsets it can take ONNX's own definition instead, whose constants are float32.
"""

MAX_STEPS = 4
MAX_DEGREE = 3
LINEAR = ("Add", "Sub", "Sum", "Mul", "Div", "Neg")


def close(value: float, number: float, dtype: ir.DataType) -> bool:
    """Whether `value` stands for `number`, which is not 0, in a graph of `dtype`."""
    return abs(value - number) <= TOLERANCE[dtype] * abs(number)


def require(at: Rewriter, op_type: str, since: int, x: ir.Value) -> None:
    """Raises DeclinedError unless `op_type`, new in opset `since`, can be applied to `x`."""
    dtype = at.dtype(x)
    at.require_operator(op_type, since, dtype)
    if dtype == ir.DataType.DOUBLE and op_type in NO_DOUBLE:
        raise DeclinedError(f"ONNX Runtime has no {op_type} for double")


def require_attribute(value: float, x: ir.Value, at: Rewriter) -> None:
    """Raises DeclinedError if `value` as an attribute, a float32, loses digits beside `x`."""
    if at.dtype(x) == ir.DataType.DOUBLE and float(np.float32(value)) != value:
        raise DeclinedError(f"an attribute is a float32, which {value} of double is not")


def number(node: ir.Node, index: int, at: Rewriter) -> float | None:
    """Input `index` of the binary `node` if it is one number that leaves the shape of the other."""
    value = at.scalar(node.inputs[index])
    if value is None or not math.isfinite(value):
        return None
    return value if at.keeps_shape(node.inputs[index], node.inputs[1 - index]) else None


@dataclass(frozen=True)
class Affine:
    """scale * value + shift."""

    value: ir.Value
    scale: float = 1.0
    shift: float = 0.0


def step(node: ir.Node, at: Rewriter) -> Affine | None:
    """`node` in terms of the one of its inputs that is no number."""
    if at.opset < 7:  # an attribute says how they broadcast
        return None
    value = node.inputs[0]
    if node.op_type == "Neg":
        return None if value is None else Affine(value, -1.0)
    if len(node.inputs) != 2 or (node.op_type == "Sum" and at.opset < 8):
        return None
    right, left = number(node, 1, at), number(node, 0, at)
    if right is None:
        value = node.inputs[1]
        return None if left is None or value is None else _from_left(node.op_type, left, value)
    if value is None or left is not None:
        return None
    if node.op_type in ("Add", "Sub", "Sum"):
        return Affine(value, 1.0, -right if node.op_type == "Sub" else right)
    if node.op_type == "Mul":
        return Affine(value, right)
    return Affine(value, 1 / right) if right != 0 else None


def _from_left(op_type: str, left: float, value: ir.Value) -> Affine | None:
    if op_type in ("Add", "Sum"):
        return Affine(value, 1.0, left)
    if op_type == "Sub":
        return Affine(value, -1.0, left)
    return Affine(value, left) if op_type == "Mul" else None


def affine(value: ir.Value, at: Rewriter, stop: Callable[[ir.Value], bool]) -> Affine:
    """`value` in terms of the first value upwards where `stop` says so, or that is no sum or
    product with a number."""
    found = Affine(value)
    for _ in range(MAX_STEPS):
        node = at.producer(found.value, *LINEAR)
        more = None if node is None or stop(found.value) else step(node, at)
        if more is None:
            break
        shift = found.scale * more.shift + found.shift
        found = Affine(more.value, found.scale * more.scale, shift)
    return found


def is_shared(value: ir.Value) -> bool:
    """Whether more than one node, or a caller, sees `value`."""
    return len(value.uses()) != 1 or value.is_graph_output()


def reaching(x: ir.Value) -> Callable[[ir.Value], bool]:
    """Where `affine` stops if it is to end at `x`."""
    return lambda value: value is x


def never(value: ir.Value) -> bool:
    """Where `affine` stops if only operators are to stop it."""
    return False


@dataclass(frozen=True)
class Gated:
    """scale * x * gate."""

    scale: float
    x: ir.Value
    gate: ir.Value


def gated(node: ir.Node, at: Rewriter) -> tuple[Gated, ...]:
    """The two ways to read a Mul or Div node as `Gated`; () if it is no such product."""
    scale = 1.0
    for _ in range(MAX_STEPS):
        more = step(node, at)
        if more is None:
            break
        below = at.producer(more.value, "Mul", "Div")
        if below is None or more.shift != 0.0:
            return ()
        node, scale = below, scale * more.scale
    if node.op_type != "Mul" or at.opset < 7:
        return ()
    sides = [_scaled(value, at) for value in node.inputs if value is not None]
    if len(sides) != 2 or any(side.scale == 0.0 for side in sides):
        return ()
    left, right = sides
    scale *= left.scale * right.scale
    return Gated(scale, left.value, right.value), Gated(scale, right.value, left.value)


def _scaled(value: ir.Value, at: Rewriter) -> Affine:
    """`value` as a multiple of another one."""
    found = Affine(value)
    for _ in range(MAX_STEPS):
        node = at.producer(found.value, "Mul", "Div", "Neg")
        more = None if node is None or is_shared(found.value) else step(node, at)
        if more is None:
            break
        found = Affine(more.value, found.scale * more.scale)
    return found


def polynomial(
    value: ir.Value | None, x: ir.Value, at: Rewriter, depth: int = 8
) -> np.ndarray | None:
    """The coefficients of `value` as a polynomial in `x`, from the constant term on; None if it is
    none of degree MAX_DEGREE at most."""
    if value is x:
        return np.array([0.0, 1.0])
    constant = at.scalar(value)
    if constant is not None:
        return np.array([constant]) if at.keeps_shape(value, x) else None
    node = at.producer(value, *LINEAR, "Pow")
    if node is None or depth == 0 or at.opset < 8:
        return None
    parts = [polynomial(part, x, at, depth - 1) for part in node.inputs]
    if len(parts) > 2 or any(part is None for part in parts):
        return None
    result = _combine(node.op_type, *(part for part in parts if part is not None))
    if result is None or len(result) > MAX_DEGREE + 1 or not np.isfinite(result).all():
        return None
    return result


def _combine(op_type: str, a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray | None:
    if b is None:
        return -a if op_type == "Neg" else None
    if op_type in ("Add", "Sub", "Sum"):
        return np.asarray(poly.polysub(a, b) if op_type == "Sub" else poly.polyadd(a, b))
    if op_type == "Mul":
        return np.asarray(poly.polymul(a, b))
    if len(b) != 1 or b[0] == 0:
        return None
    if op_type == "Div":
        return np.asarray(a / b[0])
    return np.asarray(poly.polypow(a, int(b[0]))) if b[0] in (2, 3) else None
