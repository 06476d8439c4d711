"""Chains of operators that keep numbers within limits: Clip, Relu, Min and Max of a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import gives_way, hand_on

RANGED = ("Clip", "Relu", "Min", "Max")
# What both Min and Max, and Clip, have kernels for everywhere.
COMMON_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64)

Number = Any
"""A numpy scalar of the data's type (ml_dtypes for what numpy lacks)."""


@dataclass(frozen=True)
class Limits:
    """min(max(x, low), high), where None is no limit.

    A Clip without a limit is held to be one without a limit by the specification, while ONNX
    Runtime makes the largest number of infinity. So `clips` keeps it apart.
    """

    source: ir.Value
    low: Number | None
    high: Number | None
    clips: bool

    def of(self, number: Number) -> Number:
        """The limits applied to one of finite numbers."""
        if self.low is not None and number < self.low:
            number = self.low
        return self.high if self.high is not None and self.high < number else number


def merge_ranges(node: ir.Node, at: Rewriter) -> bool:
    """Limits of what is within limits are one Clip, or what it was already."""
    index = _data_index(node, at)
    inner = None if index is None else at.producer(node.inputs[index], *RANGED)
    if inner is None or at.opset < 6:
        return False
    outer, first = limits(node, at), limits(inner, at)
    if outer is None or first is None:
        return False
    low = outer.low if first.low is None else outer.of(first.low)
    high = outer.high if first.high is None else outer.of(first.high)
    if _is(low, first.low) and _is(high, first.high) and first.clips >= outer.clips:
        if node.op_type != inner.op_type or not _same_limits(outer, first):
            _require_signs(at, node)
        return hand_on(node, inner.outputs[0], at)
    if (low is None or high is None) and not _keeps_open_end(low, high, outer, first):
        return False
    if not _clips(node, inner, at):
        return False
    if low == 0 and high == 0:
        raise DeclinedError("of the zeros that are left, one Clip would keep other signs")
    if inner is not at.before(node, index or 0, *RANGED) and not gives_way(inner, at, *RANGED):
        raise DeclinedError(f"what {inner.op_type} gives is used elsewhere too")
    _become_clip(node, first.source, low, high, at)
    return True


def _data_index(node: ir.Node, at: Rewriter) -> int | None:
    """Which input of a node of RANGED is the one that is kept within limits."""
    if node.op_type in ("Clip", "Relu"):
        return 0
    if len(node.inputs) != 2 or at.opset < 8:
        return None
    constant = at.operands(node, at.is_constant)
    return None if constant is None else constant[1]


def limits(node: ir.Node, at: Rewriter) -> Limits | None:
    """Those of a node of RANGED, if they are finite constants and low <= high."""
    index = _data_index(node, at)
    source = None if index is None else node.inputs[index]
    dtype = at.dtype(node.outputs[0])
    if source is None or dtype is None:
        return None
    if node.op_type == "Relu":
        return Limits(source, np.zeros((), dtype.numpy())[()], None, False)
    if node.op_type == "Clip":
        return _clip_limits(node, source, dtype, at)
    constant = node.inputs[1 - (index or 0)]
    array = at.small(constant)
    if array is None or array.size != 1 or not at.keeps_shape(constant, source):
        return None
    number = array.reshape(())[()]
    if not np.isfinite(number):
        return None
    if node.op_type == "Max":
        return Limits(source, number, None, False)
    return Limits(source, None, number, False)


def _clip_limits(
    node: ir.Node, source: ir.Value, dtype: ir.DataType, at: Rewriter
) -> Limits | None:
    ends: list[Number | None] = []
    for index, name in ((1, "min"), (2, "max")):
        if at.opset < 11:
            attribute = node.attributes.get(name)
            number = None if attribute is None else attribute.as_float()
            ends.append(None if number is None else np.array(number, dtype.numpy())[()])
            continue
        value = node.inputs[index] if index < len(node.inputs) else None
        array = at.small(value)
        if value is not None and (array is None or array.size != 1):
            return None
        ends.append(None if array is None else array.reshape(())[()])
    low, high = ends
    if any(end is not None and not np.isfinite(end) for end in ends):
        return None
    if low is not None and high is not None and low > high:
        return None
    return Limits(source, low, high, True)


def _is(a: Number | None, b: Number | None) -> bool:
    """Whether both are the same to the bit."""
    if a is None or b is None:
        return a is b
    return bool(a.tobytes() == b.tobytes())


def _same_limits(one: Limits, other: Limits) -> bool:
    return _is(one.low, other.low) and _is(one.high, other.high)


def _keeps_open_end(low: Number | None, high: Number | None, outer: Limits, first: Limits) -> bool:
    """Whether infinity becomes of a Clip without that limit what becomes of it now."""
    clips = [pair for pair in (outer, first) if pair.clips]
    open_low = low is not None or any(pair.low is None for pair in clips)
    open_high = high is not None or any(pair.high is None for pair in clips)
    return open_low and open_high


def _clips(node: ir.Node, inner: ir.Node, at: Rewriter) -> bool:
    """Whether a Clip can take the place of both.

    Raises:
        DeclinedError: if the sign of zero would change.
    """
    pair = (node, inner)
    dtype = at.dtype(node.outputs[0])
    if not at.has_operator("Clip", 6 if dtype == ir.DataType.FLOAT else 12):
        return False
    if any(one.op_type == "Clip" for one in pair) or dtype in COMMON_TYPES:
        _require_signs(at, *pair)
        return True
    return False


def _require_signs(at: Rewriter, *nodes: ir.Node) -> None:
    """Raises DeclinedError if one of `nodes` gives a zero another sign.

    In ONNX Runtime, Min and Max with a zero do; Relu and Clip do not.
    """
    dtype = at.dtype(nodes[0].outputs[0])
    if dtype is None or not dtype.is_floating_point():
        return
    for node in nodes:
        if node.op_type in ("Min", "Max") and any(at.is_number(v, 0.0) for v in node.inputs):
            raise DeclinedError(f"{node.op_type} makes 0 of -0, which Clip and Relu keep")


def _become_clip(
    node: ir.Node, source: ir.Value, low: Number | None, high: Number | None, at: Rewriter
) -> None:
    if at.opset < 11:
        ends = {"min": low, "max": high}
        given = {name: float(end) for name, end in ends.items() if end is not None}
        at.become(node, "Clip", [source], given)
        return
    inputs: list[ir.Value | None] = [source]
    for name, end in (("min", low), ("max", high)):
        base = f"{node.outputs[0].name}_{name}"
        inputs.append(None if end is None else at.constant(np.array(end), base, node))
    while inputs[-1] is None:
        inputs.pop()
    at.become(node, "Clip", inputs)
