"""Chains of Clip and Relu, and Min with Max, that are one Clip.

What ONNX Runtime does with NaN (it stays), with zeros of both signs (an element that equals a bound
stays as it is) and with infinities (a Clip without a limit has the greatest finite number for one)
is the same before and after. The sign of zero that Max and Min give depends on where in the tensor
it is: Max and Min with a bound of 0 are not the same as a Clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import bypass, input_of

Number = float  # or int, exactly
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class _Range:
    """What a Clip lets pass; None is "no limit"."""

    low: Number | None
    high: Number | None

    @property
    def is_sound(self) -> bool:
        limits = [x for x in (self.low, self.high) if x is not None]
        if not all(math.isfinite(x) and (x != 0 or math.copysign(1, x) > 0) for x in limits):
            return False
        return self.low is None or self.high is None or self.low <= self.high

    def then(self, other: _Range) -> _Range:
        """This one, and after it `other`."""
        return _Range(other.low if self.low is None else other.clip(self.low),
                      other.high if self.high is None else other.clip(self.high))  # fmt: skip

    def clip(self, number: Number) -> Number:
        if self.low is not None and number < self.low:
            number = self.low
        return self.high if self.high is not None and number > self.high else number


_POSITIVE = _Range(0.0, None)


def _range(node: ir.Node, at: Rewriter) -> _Range | None:
    """The limits of a Clip, or of a Relu; None if not known."""
    if node.op_type == "Relu":
        return _POSITIVE
    if at.opset < 11:
        found = _Range(*(node.attributes.get_float(name) for name in ("min", "max")))
        return found if at.opset >= 6 and found.is_sound else None
    limits: list[Number | None] = []
    for index in (1, 2):
        value = input_of(node, index)
        array = None if value is None else at.small(value)
        if value is not None and (array is None or array.ndim):
            return None
        limits.append(None if array is None else _number(array))
    found = _Range(*limits)
    return found if found.is_sound else None


def _number(array: np.ndarray) -> Number:
    number: Any = array.reshape(-1)[0]
    return int(number) if array.dtype.kind in "iu" else float(number)


def _clips(node: ir.Node, at: Rewriter) -> bool:
    """Clip and Relu, one after the other -> a single Clip or Relu."""
    found = at.before(node, 0, "Clip", "Relu")
    if found is None or (node.op_type == "Relu" == found.op_type):
        return False
    first, second = _range(found, at), _range(node, at)
    if first is None or second is None:
        raise DeclinedError("the limits of the two are not constants that can be merged")
    dtype = at.dtype(node.outputs[0])
    both = first.then(second)
    if dtype is None or (found.op_type == "Relu" and both.high is None):
        return False  # a Relu lets infinity pass, a Clip without a limit does not
    if dtype in _HALVES and "Relu" in (node.op_type, found.op_type):
        raise DeclinedError("which zero a Relu of half precision gives depends on where it is")
    if 0 in (both.low, both.high) and first.clip(0) != 0:
        raise DeclinedError("-0 would stay where the two make it 0")
    if both == first and found.op_type == "Clip":
        return bypass(node, at, found.outputs[0])
    if not at.has_operator("Clip", 6):
        return False
    _write(node, at, found, both)
    return True


def _write(node: ir.Node, at: Rewriter, found: ir.Node, both: _Range) -> None:
    """Makes `node` a Clip to `both`; where the limit is one of a Clip's, its constant is used."""
    source = found.inputs[0]
    if at.opset < 11:
        pairs = {"min": both.low, "max": both.high}
        given = {name: float(x) for name, x in pairs.items() if x is not None}
        at.become(node, "Clip", [source], given)
        return
    inputs = [source, *(_limit(x, (found, node), at) for x in (both.low, both.high))]
    at.become(node, "Clip", inputs if inputs[-1] is not None else inputs[:-1])


def _limit(number: Number | None, nodes: tuple[ir.Node, ir.Node], at: Rewriter) -> ir.Value | None:
    if number is None:
        return None
    for node in nodes:
        for value in node.inputs[1:]:
            array = at.small(value)
            if array is not None and _number(array) == number:
                return value
    node, dtype = nodes[1], at.dtype(nodes[1].outputs[0])
    data = np.array(number, None if dtype is None else dtype.numpy())
    return at.constant(data, f"{node.outputs[0].name}_limit", node)


def _min_of_max(node: ir.Node, at: Rewriter) -> bool:
    """Min(Max(x, low), high), or the other way round, of constant scalars -> Clip."""
    found = at.before(node, 0, *_OTHER[node.op_type]) or at.before(node, 1, *_OTHER[node.op_type])
    if found is None or len(node.inputs) != 2 or len(found.inputs) != 2:
        return False
    outer, inner = (at.operands(n, lambda v: _is_scalar(v, at)) for n in (node, found))
    if outer is None or inner is None or node.inputs[outer[1]] is not found.outputs[0]:
        return False
    source = found.inputs[inner[1]]
    limits = [found.inputs[inner[0]], node.inputs[outer[0]]]
    low, high = limits if node.op_type == "Min" else reversed(limits)
    dtype = at.dtype(source)
    # ONNX Runtime has no Clip of opset 11 for other types than float.
    since = 11 if dtype == ir.DataType.FLOAT else 12
    if dtype not in _FLOATS or not at.has_operator("Clip", since):
        return False
    numbers = [at.scalar(value) for value in (low, high)]
    if numbers[0] is None or numbers[1] is None or not numbers[0] <= numbers[1]:
        return False
    if not all(number and math.isfinite(number) for number in numbers):
        raise DeclinedError("with a bound of 0, Min and Max give zeros another sign than Clip")
    at.become(node, "Clip", [source, low, high])
    return True


_OTHER = {"Min": ("Max",), "Max": ("Min",)}


def _is_scalar(value: ir.Value | None, at: Rewriter) -> bool:
    array = at.small(value)
    return array is not None and array.shape == ()


RULES = (
    Rule("clip-of-clip", ("Clip", "Relu"), _clips),
    Rule("min-of-max", ("Min", "Max"), _min_of_max),
)
