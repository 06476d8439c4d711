"""Where the pair stands behind a kernel that gives integers."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import constant_array, is_standard, sole_use
from graphopt.targets.quantization import QuantizationRules


def outlet(node: ir.Node, rules: QuantizationRules) -> ir.Value:
    """The output of `node`, or that of the activation behind it that its kernel takes in."""
    value = node.outputs[0]
    user = sole_use(value)
    if user is not None and is_standard(user, *rules.clamps) and _begins_at_zero(user):
        return user.outputs[0]
    return value


def _begins_at_zero(clamp: ir.Node) -> bool:
    """Whether the least integer, which stands for 0 then, does what `clamp` does below it."""
    if clamp.op_type == "Relu":
        return True
    bounds = [constant_array(value) for value in clamp.inputs[1:] if value is not None]
    least = constant_array(clamp.inputs[1]) if len(clamp.inputs) > 1 else None
    known = all(bound is not None for bound in bounds)
    return known and least is not None and float(least.reshape(())) == 0
