"""QuantizeLinear of DequantizeLinear with the same parameters."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import bypass, input_of

_SMALL = (ir.DataType.INT8, ir.DataType.UINT8)
# Up to this factor, q - zero_point times a scale stays a normal number of float.
_SPREAD = 1 << 10


def _quantize_of_dequantize(node: ir.Node, at: Rewriter) -> bool:
    """-> the quantized original.

    With k = q - zero_point, |k| <= 510, the quotient (k * scale) / scale is within two roundings of
    k in float, far less than the half that would change the integer it is rounded to.
    """
    found = at.producer(node.inputs[0], "DequantizeLinear")
    if found is None or at.opset < 10:
        return False
    source = found.inputs[0]
    if at.dtype(source) not in _SMALL or at.dtype(node.outputs[0]) != at.dtype(source):
        return False
    if _block(node) or _block(found) or not _same_axis(node, found):
        return False
    scale = at.array(node.inputs[1])
    if not _same(node.inputs[1], found.inputs[1], at) or scale is None:
        raise DeclinedError("DequantizeLinear and QuantizeLinear have different scales")
    if not _same(input_of(node, 2), input_of(found, 2), at):
        raise DeclinedError("DequantizeLinear and QuantizeLinear have different zero points")
    if not _is_harmless(scale) or at.dtype(node.inputs[0]) != ir.DataType.FLOAT:
        raise DeclinedError("the scale does not let every integer come back")
    return bypass(node, at, source)


def _block(node: ir.Node) -> bool:
    """Whether a Q or DQ has more to it than scale, zero point and axis."""
    return any(name not in ("axis", "saturate") for name in node.attributes)


def _same_axis(node: ir.Node, other: ir.Node) -> bool:
    axes: list[int] = [n.attributes.get_int("axis", 1) for n in (node, other)]
    return axes[0] == axes[1]


def _same(one: ir.Value | None, other: ir.Value | None, at: Rewriter) -> bool:
    """Whether two inputs are left out, or are equal constants, in shape too."""
    if one is None or other is None:
        return one is other
    a, b = at.array(one), at.array(other)
    if a is None or b is None:
        return False
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _is_harmless(scale: np.ndarray) -> bool:
    if scale.dtype != np.float32:
        return False
    limits = np.finfo(np.float32)
    low, high = float(limits.tiny) * _SPREAD, float(limits.max) / _SPREAD
    return bool(np.all((scale >= low) & (scale <= high)))


RULES = (Rule("quantize-of-dequantize", ("QuantizeLinear",), _quantize_of_dequantize),)
