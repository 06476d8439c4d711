"""HardSigmoid and HardSwish: a straight line between two limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewriting import Rewriter, require_private
from graphopt_passes.fuse_activations.algebra import (
    TOLERANCE,
    affine,
    close,
    gated,
    is_shared,
    number,
    reaching,
    require,
    step,
)

CLIPS = ("Clip", "Max", "Min", "Relu")


@dataclass(frozen=True)
class Clipped:
    """`value` between two limits."""

    value: ir.Value
    low: float
    high: float


def clipped(value: ir.Value | None, at: Rewriter) -> Clipped | None:
    """`value` as a Clip, whose limits are numbers, or as the same by Min, Max and Relu."""
    node = at.producer(value, *CLIPS)
    if node is None:
        return None
    if node.op_type == "Clip":
        limits = clip_limits(node, at)
        return (
            None if limits is None or node.inputs[0] is None else Clipped(node.inputs[0], *limits)
        )
    outer = _bound(node, at)
    below = None if outer is None else at.producer(outer[0], "Min", "Max", "Relu")
    inner = None if below is None else _bound(below, at)
    if outer is None or inner is None or (outer[1] is None) == (inner[1] is None):
        return None
    low = inner[1] if outer[1] is None else outer[1]
    high = inner[2] if outer[2] is None else outer[2]
    if low is None or high is None or low > high:
        return None
    return Clipped(inner[0], low, high)


def _bound(node: ir.Node, at: Rewriter) -> tuple[ir.Value, float | None, float | None] | None:
    """What Min, Max or Relu limits, from below or from above."""
    value = node.inputs[0]
    if node.op_type == "Relu":
        return None if value is None else (value, 0.0, None)
    if len(node.inputs) != 2 or at.opset < 8:
        return None
    for index, other in ((1, value), (0, node.inputs[1])):
        limit = number(node, index, at)
        if limit is not None and other is not None:
            return (other, limit, None) if node.op_type == "Max" else (other, None, limit)
    return None


def clip_limits(node: ir.Node, at: Rewriter) -> tuple[float, float] | None:
    """What a Clip keeps between; None if that is not known. What it leaves out is infinite here,
    though a runtime takes the largest number of the type."""
    if at.opset < 11:
        low: float = node.attributes.get_float("min", -math.inf)
        high: float = node.attributes.get_float("max", math.inf)
        return low, high
    limits = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        found = limits[index] if value is None else at.scalar(value)
        if found is None:
            return None
        limits[index] = found
    return limits[0], limits[1]


@dataclass(frozen=True)
class Line:
    """max(0, min(1, alpha * value + beta)); not a plain clip, which has no beta."""

    value: ir.Value
    alpha: float
    beta: float


def _line(value: ir.Value, scale: float, at: Rewriter, x: ir.Value | None = None) -> Line | None:
    """`scale` * `value` as a Line, in terms of `x` if that is given."""
    node = at.producer(value, "HardSigmoid")
    if node is not None and node.inputs[0] is not None and scale == 1.0:
        alpha: float = node.attributes.get_float("alpha", 0.2)
        beta: float = node.attributes.get_float("beta", 0.5)
        return Line(node.inputs[0], alpha, beta)
    clip, dtype = clipped(value, at), at.dtype(value)
    if clip is None or clip.low != 0.0 or dtype not in TOLERANCE:
        return None
    if not close(scale * clip.high, 1.0, dtype):
        return None
    line = affine(clip.value, at, is_shared if x is None else reaching(x))
    if line.shift == 0.0 or line.scale * scale <= 0.0:
        return None
    return Line(line.value, scale * line.scale, scale * line.shift)


def hard_sigmoid(node: ir.Node, at: Rewriter) -> bool:
    """clip(x + 3, 0, 6) / 6, clip(a * x + b, 0, 1) and the like become HardSigmoid."""
    scale, value = 1.0, node.outputs[0]
    if node.op_type in ("Mul", "Div"):
        more = step(node, at)
        if more is None or at.producer(more.value, *CLIPS) is None:
            return False
        scale, value = more.scale, more.value
    line = _line(value, scale, at)
    if line is None:
        return False
    require(at, "HardSigmoid", 6, line.value)
    require_private(node, [line.value])
    at.become(node, "HardSigmoid", [line.value], {"alpha": line.alpha, "beta": line.beta})
    return True


def hard_swish(node: ir.Node, at: Rewriter) -> bool:
    """x * clip(x + 3, 0, 6) / 6 and x * HardSigmoid(x) become HardSwish.

    Before opset 14 there is none: then it is x * HardSigmoid(x).
    """
    for product in gated(node, at):
        if at.producer(product.gate, "HardSigmoid", *CLIPS) is None:
            continue
        line, dtype = _line(product.gate, product.scale, at, product.x), at.dtype(product.x)
        if line is None or line.value is not product.x or dtype not in TOLERANCE:
            continue
        if not (close(line.alpha, 1 / 6, dtype) and close(line.beta, 0.5, dtype)):
            continue
        is_new = at.producer(product.gate, "HardSigmoid") is None
        if is_new and not at.has_operator("HardSwish", 14):
            return _by_hard_sigmoid(node, line, at)
        require(at, "HardSwish", 14, line.value)
        require_private(node, [line.value])
        at.become(node, "HardSwish", [line.value])
        return True
    return False


def _by_hard_sigmoid(node: ir.Node, line: Line, at: Rewriter) -> bool:
    require(at, "HardSigmoid", 6, line.value)
    require_private(node, [line.value])
    attributes = {"alpha": line.alpha, "beta": line.beta}
    gate = at.insert(node, "HardSigmoid", [line.value], attributes)
    at.become(node, "Mul", [line.value, gate])
    return True
