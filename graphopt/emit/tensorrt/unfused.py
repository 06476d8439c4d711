"""Quantized nodes that the builder computes in float all the same, and the likely reason.

The reasons are the rules of placement, which were measured by building; where none of them fits,
that is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.emit.tensorrt.kernel_counts import ComputeNode
from graphopt.emit.tensorrt.kernel_table import FLOATS
from graphopt.targets import Target
from graphopt.targets.quantization import QuantizationRules, quantization_rules

if TYPE_CHECKING:
    import onnx_ir as ir

# M: what makes floats of quantized values, so that a Conv or product behind it is float.
_BREAKERS = frozenset(
    {
        *("Add", "AveragePool", "Cast", "Clip", "GlobalAveragePool", "LeakyRelu", "Max"),
        *("ReduceMean", "Relu", "Resize", "Where"),
    }
)
# In float by nature: the weights are stored in few bits, and no product of integers is meant.
_WEIGHTS_ONLY = frozenset({"INT4", "UINT4", "FLOAT4E2M1"})
_MAX_STEPS = 32


@dataclass(frozen=True)
class Unfused:
    """A node with DequantizeLinear above it that became a float kernel.

    Attributes:
        precision: what it computes in.
        reason: the likely one, with what to do.
    """

    node: str
    operator: str
    precision: str
    reason: str


@dataclass(frozen=True)
class _Source:
    """The DequantizeLinear above an operand.

    Attributes:
        breaker: a node on the way that makes floats, if there is one.
        is_direct: whether nothing at all is on the way.
    """

    dequantize: ir.Node
    breaker: ir.Node | None
    is_direct: bool


def find_unfused(
    model: ir.Model, nodes: Iterable[ComputeNode], target: Target
) -> tuple[Unfused, ...]:
    """Those of `nodes` that are float although Q/DQ asks for something else."""
    from graphopt.ir import label, walk

    # What the parsers call a node without a name is beside its label.
    by_name = {
        name: node for node in walk(model.graph) for name in (label(node), f"node_of_{label(node)}")
    }
    rules = quantization_rules("tensorrt")
    found = []
    for each in nodes:
        node = by_name.get(each.name)
        if node is None or each.precision not in FLOATS:
            continue
        reason = _reason(node, target, rules)
        if reason is not None:
            found.append(Unfused(each.name, each.op_type, str(each.precision), reason))
    return tuple(found)


def _reason(node: ir.Node, target: Target, rules: QuantizationRules) -> str | None:
    """Why `node` is float; None if nothing asks for anything else."""
    operands = [_source(value, rules) for value in node.inputs[:2]]
    sources = [source for source in operands if source is not None]
    if not sources or any(_type(source) in _WEIGHTS_ONLY for source in sources):
        return None
    precision = "fp8" if any("FLOAT8" in _type(source) for source in sources) else "int8"
    refusal = target.why_not(precision)
    if refusal is not None:
        return refusal
    if node.op_type in rules.float_operators:
        return f"{rules.float_operators[node.op_type]}; leave it without Q/DQ"
    data, weight = operands if len(operands) == 2 else (operands[0], None)
    if data is None:
        return "only its weight is quantized; put QuantizeLinear and DequantizeLinear on its data"
    if weight is None:
        return "only its data is quantized; quantize its weight too"
    for source in sources:
        if source.breaker is not None:
            return (
                f"'{source.breaker.name}' [{source.breaker.op_type}] between "
                f"'{source.dequantize.name}' and it makes floats; put the pair behind that node"
            )
    if _type(data) != _type(weight):
        return f"its data is {_type(data).lower()} and its weight {_type(weight).lower()}"
    return _of_scales(node, data, weight, rules) or (
        "the builder chose a float kernel, and no known rule says why"
    )


def _of_scales(
    node: ir.Node, data: _Source, weight: _Source, rules: QuantizationRules
) -> str | None:
    from graphopt.ir import constant_tensor

    scale = constant_tensor(data.dequantize.inputs[1])
    if scale is None:
        return "the scale of its data is not a constant"
    shape = list(scale.shape.numpy())
    if shape:
        return f"the scale of its data has the shape {shape}; make it a scalar, of shape []"
    if not (constant := constant_tensor(weight.dequantize.inputs[1])):
        return "the scale of its weight is not a constant"
    rule = rules.operators.get(node.op_type)
    if rule is None or constant.size < 2 or not weight.is_direct:
        return None
    expected = rule.weight_axis
    if rule.transposed_by is not None:
        transposed: int = node.attributes.get_int(rule.transposed_by, 0)
        expected = 0 if transposed else expected
    axis = weight.dequantize.attributes.get_int("axis", 1)
    rank = len(node.inputs[1].shape) if node.inputs[1] and node.inputs[1].shape else None
    axis += rank if axis < 0 and rank is not None else 0
    if axis == expected:
        return None
    return f"its weight has a scale for each index of axis {axis}; make it axis {expected}"


def _source(value: ir.Value | None, rules: QuantizationRules) -> _Source | None:
    from graphopt.ir import is_standard

    moving = rules.movers | rules.selectors | rules.joins | {"Mul"}
    breaker = None
    for step in range(_MAX_STEPS):
        node = value.producer() if value is not None else None
        if node is None or not is_standard(node, node.op_type) or not node.inputs:
            return None
        if node.op_type == "DequantizeLinear":
            return _Source(node, breaker, step == 0)
        if node.op_type in _BREAKERS:
            breaker = node  # the one nearest to the pair
        elif node.op_type not in moving:
            return None
        value = node.inputs[0]
    return None


def _type(source: _Source) -> str:
    """The type of what is dequantized, by its name in ONNX; "" if not known."""
    node = source.dequantize
    for value in (node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None):
        if value is not None and value.dtype is not None:
            return value.dtype.name
    return ""
