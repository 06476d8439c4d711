"""Chains of Cast, where the first loses nothing."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import ahead, bypass

# (bits, signed) of the integers; a bool is one of 1 bit.
_INTEGERS = {
    ir.DataType.BOOL: (1, False),
    ir.DataType.UINT8: (8, False),
    ir.DataType.UINT16: (16, False),
    ir.DataType.UINT32: (32, False),
    ir.DataType.UINT64: (64, False),
    ir.DataType.INT8: (8, True),
    ir.DataType.INT16: (16, True),
    ir.DataType.INT32: (32, True),
    ir.DataType.INT64: (64, True),
}
# (bits of the significand, greatest exponent, least exponent with subnormal numbers)
_FLOATS = {
    ir.DataType.BFLOAT16: (8, 127, -133),
    ir.DataType.FLOAT16: (11, 15, -24),
    ir.DataType.FLOAT: (24, 127, -149),
    ir.DataType.DOUBLE: (53, 1023, -1074),
}


def _casts(node: ir.Node, at: Rewriter) -> bool:
    """Cast of Cast -> one, or the original."""
    found = at.producer(node.inputs[0], "Cast")
    if found is None or at.opset < 6 or not node.inputs[0]:
        return False
    source, middle = at.dtype(found.inputs[0]), at.dtype(node.inputs[0])
    final = at.dtype(node.outputs[0])
    if source is None or middle is None or final is None or source == middle or middle == final:
        return False
    if not _known(source) or not _known(middle) or not _known(final):
        return False
    if source == final:
        if not _holds(middle, source):
            raise DeclinedError(f"{middle.name.lower()} does not hold all of {source.name.lower()}")
        return bypass(node, at, found.inputs[0])
    if not _same_directly(source, middle, final):
        return False
    if ahead(node, at, "Cast") is None:
        return False
    at.become(node, "Cast", [found.inputs[0]], {"to": int(final)})
    return True


def _known(dtype: ir.DataType) -> bool:
    return dtype in _INTEGERS or dtype in _FLOATS


def _holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether every number of `narrow` is one of `wide`, so that the way back is exact."""
    if narrow in _INTEGERS:
        bits, signed = _INTEGERS[narrow]
        if wide in _INTEGERS:
            more, both = _INTEGERS[wide]
            room = more - both - (bits - signed)
            return room >= 0 and (both or not signed) and wide != ir.DataType.BOOL
        return bits - signed <= _FLOATS[wide][0] and bits <= _FLOATS[wide][1]
    if wide in _INTEGERS:
        return False
    return all(
        (_FLOATS[narrow][0] <= _FLOATS[wide][0], _FLOATS[narrow][1] <= _FLOATS[wide][1],
         _FLOATS[narrow][2] >= _FLOATS[wide][2])
    )  # fmt: skip


def _same_directly(source: ir.DataType, middle: ir.DataType, final: ir.DataType) -> bool:
    """Whether `source` -> `final` gives the same bits as the way through `middle`.

    Where a number does not fit `final`, integers keep their lower bits, but from floating-point
    numbers runtimes give what they please.
    """
    if source in _INTEGERS and middle in _INTEGERS and final in _INTEGERS:
        if final == ir.DataType.BOOL or ir.DataType.BOOL in (source, middle):
            return _holds(middle, source)
        return _holds(middle, source) or _INTEGERS[middle][0] >= _INTEGERS[final][0]
    if not _holds(middle, source):
        return False
    if final == ir.DataType.BOOL:
        return True
    if final in _INTEGERS:
        return source in _INTEGERS and _holds(final, source)
    if source in _INTEGERS:
        return final in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
    return _holds(final, middle)


RULES = (Rule("cast-of-cast", ("Cast",), _casts),)
