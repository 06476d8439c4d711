"""GroupNormalization from an InstanceNormalization of grouped channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter, require_private


def group_normalization(node: ir.Node, at: Rewriter) -> bool:
    """Reshape, InstanceNormalization of each group, and Reshape back become GroupNormalization."""
    norm = at.producer(node.inputs[0], "InstanceNormalization")
    grouping = None if norm is None else at.producer(norm.inputs[0], "Reshape")
    if norm is None or grouping is None or at.opset < 5:
        return False
    x = grouping.inputs[0]
    groups = grouped(x, grouping.outputs[0], node.outputs[0], at)
    scale, bias = at.array(norm.inputs[1]), at.array(norm.inputs[2])
    if x is None or groups is None or scale is None or bias is None:
        return False
    number, channels = groups
    at.require_operator("GroupNormalization", 21, at.dtype(x))
    shapes = [value for value in (grouping.inputs[1], node.inputs[1]) if value is not None]
    require_private(node, [x, *shapes])
    name, each = node.outputs[0].name, channels // number
    parameters = [
        at.constant(np.repeat(scale, each), f"{name}_scale", node),
        at.constant(np.repeat(bias, each), f"{name}_bias", node),
    ]
    epsilon: float = norm.attributes.get_float("epsilon", 1e-5)
    attributes = {"epsilon": epsilon, "num_groups": number}
    at.become(node, "GroupNormalization", [x, *parameters], attributes)
    return True


def grouped(
    x: ir.Value | None, grouped: ir.Value, back: ir.Value, at: Rewriter
) -> tuple[int, int] | None:
    """The number of groups and of channels, if `grouped` is `x` with its channels in groups and
    `back` has the shape of `x` again."""
    dims, inner = at.dims(x), at.dims(grouped)
    if dims is None or inner is None or len(dims) < 3 or len(inner) < 3:
        return None
    channels, groups = dims[1], inner[1]
    if at.dims(back) != dims or inner[0] != dims[0]:
        return None
    if not isinstance(channels, int) or not isinstance(groups, int):
        return None
    return (groups, channels) if groups > 0 and channels % groups == 0 else None
