"""Which nodes can be computed in integers, and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt.ir import constant_tensor, is_standard, sole_use, subgraphs
from graphopt.targets.quantization import OperatorRule, QuantizationRules
from graphopt_passes.quantize.existing import fitting_weight
from graphopt_passes.quantize.outlets import outlet
from graphopt_passes.quantize_weights.left import Left


@dataclass(frozen=True)
class Candidate:
    """A node that can be computed in integers."""

    node: ir.Node
    rule: OperatorRule
    data: ir.Value
    weight: ir.Value
    tensor: ir.TensorProtocol
    """What `weight` holds; if it is given, the integers."""
    axis: int
    """The axis of the weight along which each output channel has its own scale."""
    dtype: ir.DataType
    """The float type of data and weight."""
    given: bool = False
    """Whether the weight was quantized already; it stays as it is."""
    bias: ir.Value | None = None
    """The bias to store in int32, if the target wants that."""
    bias_use: tuple[ir.Node, int] | None = None
    """The node that adds it, and the index of that input."""


def survey(
    model: ir.Model, rules: QuantizationRules, left: Mapping[ir.Node, str]
) -> tuple[list[Candidate], list[Left]]:
    """Every node of the main graph that `rules` speak of, in order: to quantize, and to leave.

    Args:
        left: nodes that stay float in any case, each with the reason.
    """
    candidates: list[Candidate] = []
    declined: list[Left] = []
    for node in model.graph:
        if is_standard(node, *rules.float_operators):
            declined.append(Left(node, rules.float_operators[node.op_type]))
        if not is_standard(node, *rules.operators):
            continue
        verdict = left.get(node) or _judge(node, rules)
        if isinstance(verdict, Candidate):
            candidates.append(verdict)
        else:
            declined.append(Left(node, verdict))
    return candidates, declined


def _judge(node: ir.Node, rules: QuantizationRules) -> Candidate | str:
    """`node` as a candidate, or the reason why it is none."""
    rule = rules.operators[node.op_type]
    for name in rule.unset:
        if node.attributes.get_int(name, 0):
            return f"its {name} is set"
    for name in rule.ones:
        if node.attributes.get_float(name, 1.0) != 1:
            return f"its {name} is not 1"
    if not rule.float_output and outlet(node, rules).is_graph_output():
        return "it gives an output of the model, which stays float"
    candidate = _with_weight(node, rule, rules)
    if isinstance(candidate, str) or not rules.numbers.integer_biases:
        return candidate
    if rule.added_bias:
        return _with_added_bias(candidate)
    return candidate if rule.bias is None else _with_bias(candidate, rule.bias)


def _with_weight(node: ir.Node, rule: OperatorRule, rules: QuantizationRules) -> Candidate | str:
    data, weight = node.inputs[rule.data], node.inputs[rule.weight]
    if data is None or weight is None:
        return "an input is missing"
    tensor = constant_tensor(weight)
    if constant_tensor(data) is not None:
        if tensor is None:
            return "the constant is its first input; only the second can be the weight"
        return "all its inputs are constant; run fold-constants first"
    axis = rule.weight_axis
    if rule.transposed_by is not None and node.attributes.get_int(rule.transposed_by, 0) == 1:
        axis = 0
    if tensor is None:
        producer = weight.producer()
        if producer is not None and is_standard(producer, "DequantizeLinear"):
            return _with_given_weight(node, rule, rules, axis)
        return _why_not_constant(node, weight)
    if tensor.dtype.name not in rules.numbers.floats:
        return _not_float(tensor.dtype, rules)
    least, greatest = rule.weight_ranks
    rank = len(tensor.shape)
    if not least <= rank <= greatest:
        return f"its weight has rank {rank}"
    if tensor.size == 0:
        return "its weight is empty"
    taps = math.prod(tensor.shape.numpy()[2:])
    if rule.most_taps is not None and taps > rule.most_taps:
        return f"its kernel has {taps} positions, and the target's have {rule.most_taps} at most"
    return Candidate(node, rule, data, weight, tensor, axis, tensor.dtype)


def _with_given_weight(
    node: ir.Node, rule: OperatorRule, rules: QuantizationRules, axis: int
) -> Candidate | str:
    data, weight = node.inputs[rule.data], node.inputs[rule.weight]
    assert data is not None
    assert weight is not None
    found = fitting_weight(weight, rule, axis, rules)
    if isinstance(found, str):
        return found
    if found.scale.dtype.name not in rules.numbers.floats:
        return _not_float(found.scale.dtype, rules)
    return Candidate(node, rule, data, weight, found.stored, axis, found.scale.dtype, given=True)


def _with_bias(candidate: Candidate, index: int) -> Candidate | str:
    """`candidate` with its bias, which must be constant, and one number for each channel."""
    inputs = candidate.node.inputs
    bias = inputs[index] if len(inputs) > index else None
    if bias is None:
        return candidate
    producer = bias.producer()
    if producer is not None and is_standard(producer, "DequantizeLinear"):
        return candidate
    tensor = constant_tensor(bias)
    if tensor is None:
        return "its bias is computed"
    shape = tuple(tensor.shape.numpy())
    channels = candidate.tensor.shape.numpy()[candidate.axis]
    if tensor.size not in (1, channels) or any(dim != 1 for dim in shape[:-1]):
        return "its bias differs from row to row"
    return replace(candidate, bias=bias, bias_use=(candidate.node, index))


def _with_added_bias(candidate: Candidate) -> Candidate:
    """`candidate` with the vector that an Add behind it adds to each row, if there is one."""
    output = candidate.node.outputs[0]
    addition = sole_use(output)
    if addition is None or not is_standard(addition, "Add"):
        return candidate
    index = 1 if addition.inputs[0] is output else 0
    bias = addition.inputs[index]
    tensor = constant_tensor(bias)
    channels = candidate.tensor.shape.numpy()[candidate.axis]
    if tensor is None or tuple(tensor.shape.numpy()) != (channels,):
        return candidate
    return replace(candidate, bias=bias, bias_use=(addition, index))


def _not_float(dtype: ir.DataType, rules: QuantizationRules) -> str:
    wanted = " or ".join(
        "float32" if name == "FLOAT" else name.lower() for name in rules.numbers.floats
    )
    return f"its weight is {dtype.name.lower()}, not {wanted}"


def _why_not_constant(node: ir.Node, weight: ir.Value) -> str:
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
