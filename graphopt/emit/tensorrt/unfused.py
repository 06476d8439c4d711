"""Quantized nodes that the builder computes in float all the same, and the likely reason.

The reasons are the rules of placement, which were measured by building; where none of them fits,
that is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graphopt.emit.tensorrt.kernel_counts import ComputeNode
from graphopt.emit.tensorrt.kernel_table import COMPUTE_KINDS, FLOATS, Kernel
from graphopt.targets import Target
from graphopt.targets.quantization import QuantizationRules, quantization_rules

if TYPE_CHECKING:
    import onnx_ir as ir

# What makes floats of its own, whatever its operands are.
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
# M: by a constant, they leave quantized values what they are.
_SCALES = frozenset({"Mul", "Div"})
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
        breaker: the last node on the way that makes floats, if there is one.
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


def find_fp32_rest(kernels: Iterable[Kernel]) -> tuple[str, ...]:
    """The nodes that compute in fp32 in an engine that else knows integers or fp8 alone.

    With strong types what is not quantized stays what it is: nobody has cast it to fp16.
    """
    used = [kernel for kernel in kernels if kernel.kind not in ("control", "quantize", "reformat")]
    found = {kernel.precision for kernel in used}
    low = any(k.kind in COMPUTE_KINDS and k.precision in ("int8", "fp8") for k in used)
    if not low or found & {"fp16", "bf16"}:
        return ()
    names = (name for k in used if k.precision == "fp32" for name in k.onnx_nodes)
    quantized = {n for k in used if k.precision in ("int8", "fp8") for n in k.onnx_nodes}
    return tuple(dict.fromkeys(name for name in names if name not in quantized))


def _reason(node: ir.Node, target: Target, rules: QuantizationRules) -> str | None:
    """Why `node` is float; None if nothing asks for anything else."""
    operands = [_source(value, rules, _MAX_STEPS, set()) for value in node.inputs[:2]]
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
    if shape and constant_tensor(data.dequantize.inputs[0]) is not None:
        return f"its left operand is a weight with a scale of shape {shape}; make it a scalar"
    if shape:
        return f"the scale of its data has the shape {shape}; make it a scalar, of shape []"
    if not (constant := constant_tensor(weight.dequantize.inputs[1])):
        return "the scale of its weight is not a constant"
    rule = rules.operators.get(node.op_type)
    if rule is None or constant.size < 2:
        return None
    if not weight.is_direct:
        return (
            "its weight is moved after it is dequantized, and the axis of its scales with it; "
            "move it before"
        )
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


def _source(
    value: ir.Value | None, rules: QuantizationRules, steps: int, seen: set[ir.Node]
) -> _Source | None:
    """The DequantizeLinear that `value` comes from, with no other product on the way."""
    from graphopt.ir import is_standard

    node = value.producer() if value is not None else None
    if node is None or node in seen or steps == 0 or not is_standard(node, node.op_type):
        return None
    seen.add(node)
    if node.op_type == "DequantizeLinear":
        return _Source(node, None, steps == _MAX_STEPS)
    if node.op_type in _PRODUCTS:
        return None
    moves = _moves(node, rules)
    for operand in node.inputs[:1] if moves and node.op_type not in _SCALES else node.inputs:
        found = _source(operand, rules, steps - 1, seen)
        if found is not None:
            return found if moves else replace(found, breaker=node)
    return None


def _moves(node: ir.Node, rules: QuantizationRules) -> bool:
    """Whether quantized values stay quantized in `node`."""
    from graphopt.ir import constant_tensor

    if node.op_type in _SCALES:
        return any(constant_tensor(value) is not None for value in node.inputs)
    if node.op_type == "Pad":  # M: with zeros, and only to add some
        sizes, *filling = (constant_tensor(value) for value in node.inputs[1:3] if value)
        zeros = all(each is not None and not each.numpy().any() for each in filling)
        return zeros and sizes is not None and bool((sizes.numpy() >= 0).all())
    return node.op_type in rules.movers | rules.selectors | rules.joins


def _type(source: _Source) -> str:
    """The type of what is dequantized, by its name in ONNX; "" if not known."""
    node = source.dequantize
    for value in (node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None):
        if value is not None and value.dtype is not None:
            return value.dtype.name
    return ""
