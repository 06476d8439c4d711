"""Limits that no number exceeds, and operands that are all the same."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting import Rewriter
from graphopt_passes.eliminate_noops.handing import noops
from graphopt_passes.eliminate_noops.neutral import is_filled


def _limits(dtype: ir.DataType) -> tuple[float, float] | None:
    """What no number of `dtype` is below or above; NaN is neither."""
    if dtype.is_floating_point():
        return -math.inf, math.inf
    if not dtype.is_integer():
        return None
    info: Any = ml_dtypes.iinfo(dtype.numpy())  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def _extreme(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Max with the least number or Min with the greatest; either of a value and itself."""
    first = node.inputs[0]
    if all(value is first for value in node.inputs):
        return first
    for side in (1, 0) if len(node.inputs) == 2 and at.opset >= 8 else ():
        bound, other = node.inputs[side], node.inputs[1 - side]
        tensor = constant_tensor(bound)
        limits = None if tensor is None else _limits(tensor.dtype)
        if limits is not None and tensor is not None and tensor.size == 1:
            number = tensor.numpy().reshape(-1)[0]
            fits = bool(number == limits[0 if node.op_type == "Max" else 1])
            if fits and at.keeps_shape(bound, other):
                return other
    return None


def _all_bits(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Of a value and a number whose bits are all set, or of a value and itself."""
    if node.op_type == "BitwiseAnd":
        for side in (1, 0):
            bits, other = node.inputs[side], node.inputs[1 - side]
            dtype = at.dtype(bits) if at.is_constant(bits) else None
            limits = None if dtype is None else _limits(dtype)
            if dtype is None or limits is None:
                continue
            number = -1 if dtype.is_signed() else limits[1]
            exact = float(number) == number  # uint64 has larger numbers than floats tell apart
            if exact and is_filled(bits, number, at) and at.keeps_shape(bits, other):
                return other
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


def _equal(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Whether a truth value is true: that is itself."""
    for side in (1, 0) if at.opset >= 7 else ():
        truth, other = node.inputs[side], node.inputs[1 - side]
        if not at.is_constant(truth) or at.dtype(truth) != ir.DataType.BOOL:
            continue
        if is_filled(truth, 1, at) and at.keeps_shape(truth, other):
            return other
    return None


def _abs(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Abs of numbers without a sign."""
    dtype = at.dtype(node.inputs[0])
    unsigned = dtype is not None and dtype.is_integer() and not dtype.is_signed()
    return node.inputs[0] if unsigned else None


RULES = (
    *noops(_extreme, "Max", "Min"),
    *noops(_all_bits, "BitwiseAnd", "BitwiseOr"),
    *noops(_equal, "Equal"),
    *noops(_abs, "Abs"),
)
