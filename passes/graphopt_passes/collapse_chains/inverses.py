"""Pairs of operators of which the second undoes the first, or finds nothing to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import hand_on

ROUNDING = ("Floor", "Ceil", "Round")
# Attributes that do not change what a pair of QuantizeLinear and DequantizeLinear does.
PLAIN_QUANTIZATION = frozenset({"axis", "saturate", "block_size"})


def drop_double_inverse(node: ir.Node, at: Rewriter) -> bool:
    """Not(Not(x)), Neg(Neg(x)) and BitwiseNot(BitwiseNot(x)) are x."""
    inner = at.producer(node.inputs[0], node.op_type)
    return inner is not None and hand_on(node, inner.inputs[0], at)


def drop_sign_under_abs(node: ir.Node, at: Rewriter) -> bool:
    """Abs(Neg(x)) is Abs(x)."""
    inner = at.producer(node.inputs[0], "Neg")
    if inner is None:
        return False
    at.set_input(node, 0, inner.inputs[0])
    return True


def drop_repeated(*inner_types: str) -> Callable[[ir.Node, Rewriter], bool]:
    """The rule for a node that changes nothing in what one of `inner_types` gives."""

    def rule(node: ir.Node, at: Rewriter) -> bool:
        if at.producer(node.inputs[0], *inner_types) is None:
            return False
        return hand_on(node, node.inputs[0], at)

    return rule


def swap_branches(node: ir.Node, at: Rewriter) -> bool:
    """Where(Not(c), a, b) is Where(c, b, a)."""
    inner = at.producer(node.inputs[0], "Not")
    if inner is None or len(node.inputs) != 3:
        return False
    at.become(node, "Where", [inner.inputs[0], node.inputs[2], node.inputs[1]])
    return True


def drop_requantization(node: ir.Node, at: Rewriter) -> bool:
    """QuantizeLinear of DequantizeLinear with the same parameters gives the same integers.

    (x - z) * s and its quotient by s are each off by less than one part in 2^23, hence by less than
    half a step as long as |x - z| has at most 16 bits and nothing overflows or underflows.
    """
    inner = at.producer(node.inputs[0], "DequantizeLinear")
    if inner is None:
        return False
    source = inner.inputs[0]
    if at.dtype(source) is None or at.dtype(source) != at.dtype(node.outputs[0]):
        return False
    if not _is_narrow_integer(at.dtype(source)) or at.dtype(node.inputs[0]) != ir.DataType.FLOAT:
        return False
    attributes = (node.attributes, inner.attributes)
    if any(set(given) - PLAIN_QUANTIZATION for given in attributes):
        return False
    if any(given.get_int("block_size", 0) for given in attributes):
        return False
    scale, other = at.array(node.inputs[1]), at.array(inner.inputs[1])
    if scale is None or other is None or not _same(scale, other):
        raise DeclinedError("the scales are not the same constant")
    if not _is_safe(scale):
        raise DeclinedError("a scale is so small or large that the product may be 0 or infinite")
    if not _same_zero_point(node, inner, at):
        raise DeclinedError("the zero points are not the same constant")
    if scale.ndim and not _same_axis(node, inner, at):
        raise DeclinedError("the axes of the scales are not the same")
    return hand_on(node, source, at)


def _is_narrow_integer(dtype: ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_integer() and dtype.itemsize <= 2


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())


def _is_safe(scale: np.ndarray) -> bool:
    wide = scale.astype(np.float64)
    return bool(((wide > 1e-30) & (wide < 1e30)).all())


def _same_zero_point(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    points = [at.array(one.inputs[2]) if len(one.inputs) > 2 else None for one in (node, inner)]
    absent = [len(one.inputs) < 3 or one.inputs[2] is None for one in (node, inner)]
    if all(absent):
        return True
    if any(absent):
        return all(
            gone or (p is not None and not p.any()) for gone, p in zip(absent, points, strict=True)
        )
    return points[0] is not None and points[1] is not None and _same(points[0], points[1])


def _same_axis(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    one, other = (given.attributes.get_int("axis", 1) for given in (node, inner))
    rank = at.rank(inner.inputs[0])
    return bool(one == other or (rank is not None and one % rank == other % rank))
