"""Chains of Casts."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import gives_way, hand_on

T = ir.DataType

# The bits that hold an integer, without its sign, and whether it has one.
INTEGERS = {
    T.BOOL: (1, False),
    **{T.UINT8: (8, False), T.UINT16: (16, False), T.UINT32: (32, False), T.UINT64: (64, False)},
    **{T.INT8: (7, True), T.INT16: (15, True), T.INT32: (31, True), T.INT64: (63, True)},
}
# The bits of the significand, and of the exponent.
FLOATS = {T.BFLOAT16: (8, 8), T.FLOAT16: (11, 5), T.FLOAT: (24, 8), T.DOUBLE: (53, 11)}


def merge_casts(node: ir.Node, at: Rewriter) -> bool:
    """A Cast of a Cast that loses nothing is one Cast, or none."""
    inner = at.producer(node.inputs[0], "Cast")
    if inner is None:
        return False
    source, between, result = (
        at.dtype(inner.inputs[0]),
        at.dtype(inner.outputs[0]),
        at.dtype(node.outputs[0]),
    )
    if source is None or between is None or result is None:
        return False
    if between == result:
        return False  # the second does nothing; that is not a matter of chains
    if not is_same_as_direct(source, between, result):
        raise DeclinedError(
            f"{source.name} by way of {between.name} is not surely what it is as {result.name}"
        )
    if source == result:
        return hand_on(node, inner.inputs[0], at)
    if not gives_way(inner, at, "Cast"):
        return False
    at.set_input(node, 0, inner.inputs[0])
    return True


def is_same_as_direct(source: T, between: T, result: T) -> bool:
    """Whether a cast from `source` to `result` gives the same by way of `between`.

    Where a float is too large for an integer, the result is whatever the processor makes of it:
    which floats may become integers is left as it is. Numbers are rounded once if at all.
    """
    if not {source, between, result} <= INTEGERS.keys() | FLOATS.keys():
        return False
    # Excess bits of integers are cut off, and cutting off more of them later is the same.
    whole = {source, between, result} <= INTEGERS.keys() and T.BOOL not in (between, result)
    if whole and _width(result) <= _width(between):
        return True
    if not holds(between, source):
        return False
    if source == result or result == T.BOOL or holds(result, source):
        return True
    if source in INTEGERS and between in INTEGERS:
        return result in INTEGERS or result in (T.FLOAT, T.DOUBLE)
    if source in INTEGERS:
        return result in (T.FLOAT, T.DOUBLE)
    return result in FLOATS


def holds(wide: T, narrow: T) -> bool:
    """Whether every number of type `narrow` is one of type `wide`."""
    if wide in INTEGERS:
        if narrow not in INTEGERS:
            return False
        bits, signed = INTEGERS[narrow]
        return bits <= INTEGERS[wide][0] and (INTEGERS[wide][1] or not signed)
    significand, exponent = FLOATS[wide]
    if narrow in INTEGERS:
        bits = INTEGERS[narrow][0]
        return bits <= significand and bits < 2 ** (exponent - 1)
    return FLOATS[narrow][0] <= significand and FLOATS[narrow][1] <= exponent


def _width(dtype: T) -> int:
    bits, signed = INTEGERS[dtype]
    return bits + signed
