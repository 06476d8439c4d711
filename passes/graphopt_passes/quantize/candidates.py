"""Which nodes can be computed in integers, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError, did_you_mean
from graphopt.ir import constant_tensor, is_standard, nodes_of, subgraphs
from graphopt.targets.quantization import OperatorRule, QuantizationRules

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Candidate:
    """A node that can be computed in integers."""

    node: ir.Node
    rule: OperatorRule
    data: ir.Value
    weight: ir.Value
    tensor: ir.TensorProtocol
    """What `weight` holds."""
    axis: int
    """The axis of the weight along which each output channel has its own scale."""


@dataclass(frozen=True)
class Declined:
    """A node that stays float."""

    node: ir.Node
    reason: str


def excluded_nodes(model: ir.Model, patterns: Iterable[str]) -> set[ir.Node]:
    """The nodes of the main graph that `patterns` name: by name, by glob or by operator.

    Raises:
        GraphoptError: if a pattern names nothing, and is no operator either.
    """
    chosen: set[ir.Node] = set()
    nodes = list(model.graph)
    for pattern in patterns:
        found = {
            node
            for node in nodes
            if pattern in (node.name, node.op_type) or fnmatchcase(node.name or "", pattern)
        }
        if not found and not is_operator(pattern):
            raise GraphoptError(
                f"exclude: no node or operator is called '{pattern}'",
                where="pass 'quantize'",
                fix=_suggestion(pattern, nodes),
            )
        chosen |= found
    return chosen


def is_operator(name: str) -> bool:
    """Whether the default ONNX domain has an operator `name`."""
    return bool(onnx.defs.has(name))


def _suggestion(pattern: str, nodes: list[ir.Node]) -> str:
    names = sorted({node.name for node in nodes if node.name} | {node.op_type for node in nodes})
    hint = did_you_mean(pattern, names)
    return hint if hint.startswith("did") else "`graphopt inspect` lists the nodes"


def survey(
    model: ir.Model, rules: QuantizationRules, excluded: set[ir.Node]
) -> tuple[list[Candidate], list[Declined]]:
    """Every node of the main graph that `rules` speak of, in order: to quantize, and to leave."""
    candidates: list[Candidate] = []
    declined: list[Declined] = []
    for node in model.graph:
        if is_standard(node, *rules.float_operators):
            declined.append(Declined(node, rules.float_operators[node.op_type]))
        if not is_standard(node, *rules.operators):
            continue
        verdict = "excluded" if node in excluded else _judge(node, rules.operators[node.op_type])
        if isinstance(verdict, Candidate):
            candidates.append(verdict)
        else:
            declined.append(Declined(node, verdict))
    return candidates, declined


def _judge(node: ir.Node, rule: OperatorRule) -> Candidate | str:
    """`node` as a candidate, or the reason why it is none."""
    data, weight = node.inputs[rule.data], node.inputs[rule.weight]
    if data is None or weight is None:
        return "an input is missing"
    tensor = constant_tensor(weight)
    if constant_tensor(data) is not None:
        if tensor is None:
            return "the constant is its first input; only the second can be the weight"
        return "all its inputs are constant; run fold-constants first"
    if tensor is None:
        return _why_not_constant(node, weight)
    if tensor.dtype not in FLOAT_TYPES:
        return f"its weight is {tensor.dtype.name.lower()}, not float32 or float16"
    least, greatest = rule.weight_ranks
    rank = len(tensor.shape)
    if not least <= rank <= greatest:
        return f"its weight has rank {rank}"
    if tensor.size == 0:
        return "its weight is empty"
    for name in rule.unset:
        if node.attributes.get_int(name, 0):
            return f"its {name} is set"
    axis = rule.weight_axis
    if rule.transposed_by is not None and node.attributes.get_int(rule.transposed_by, 0) == 1:
        axis = 0
    return Candidate(node, rule, data, weight, tensor, axis)


def _why_not_constant(node: ir.Node, weight: ir.Value) -> str:
    producer = weight.producer()
    if producer is not None and is_standard(producer, "DequantizeLinear"):
        return "its weight is quantized already"
    if _comes_from_constants(weight):
        return "its weight is computed from constants; run fold-constants first"
    if weight.is_graph_input():
        return "its weight is an input of the model"
    if is_standard(node, "MatMul"):
        return "it multiplies two activations"
    return "its weight is computed from the input"


def _comes_from_constants(value: ir.Value) -> bool:
    """Whether only constants go into `value`."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if constant_tensor(current) is not None:
            continue
        producer = current.producer()
        if producer is None or any(True for _ in subgraphs(producer)):
            return False
        for source in producer.inputs:
            if source is not None and source not in seen:
                seen.add(source)
                pending.append(source)
    return True


def quantized_already(model: ir.Model) -> ir.Node | None:
    """The first node of `model`, in any graph or function, that belongs to a quantized model."""
    for node in nodes_of(model):
        if is_standard(node, *_QUANTIZED) or node.op_type.startswith("QLinear"):
            return node
    return None


_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
)
