"""What a model costs: multiply-accumulates, parameters and bytes, per node and in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from graphopt.ir.facts import Dim, Facts
from graphopt.ir.query import (
    DEFAULT_DOMAINS,
    all_graphs,
    constant_tensor,
    default_opset,
    is_standard,
    label,
    nodes_of,
    static_shape,
)

MacRule = Callable[[ir.Node, "_Shapes"], "int | None"]


class NodeCost(NamedTuple):
    """The cost of one node. `macs` is None where a shape is not known.

    Parameters behind a DequantizeLinear count for the node that reads what it gives, too.
    """

    name: str
    op_type: str
    macs: int | None
    parameters: int


@dataclass(frozen=True)
class Cost:
    """The cost of one run of a model: every symbolic first axis of an input counts as 1."""

    nodes: int
    parameters: int
    """Elements of all constants (initializers and Constant nodes), each counted once; scales and
    zero points of QuantizeLinear and DequantizeLinear are not parameters."""
    weight_bytes: int
    """Bytes of all constants as stored, scales and zero points too, 4-bit types packed."""
    macs: int
    """Multiply-accumulates of Conv, ConvTranspose, Gemm, MatMul and their integer kin, and of the
    products with weights in LSTM, GRU and RNN, over the whole length of the sequence."""
    unknown: tuple[str, ...]
    """What the nodes of those kinds are called (see `label`) that count as 0: their shapes are not
    known, or they are in a subgraph or function, which may run any number of times."""
    opset: int
    per_node: tuple[NodeCost, ...]


def measure(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    facts: Facts | None = None,
) -> Cost:
    """Counts the cost of `model`, which is not changed. MACs are counted in the main graph.

    Args:
        shapes: shapes of values by name, as seen when one sample ran, for those that cannot be
            inferred.
        facts: of `model`, if they are at hand.
    """
    look_up = _Shapes(facts or Facts(model), shapes or {})
    nodes = list(nodes_of(model))
    has_inner = len(nodes) > len(model.graph)
    constants = _constants(all_graphs(model))
    rows = [_node_cost(node, look_up, constants) for node in model.graph]
    elsewhere = [node for node in nodes if node.graph is not model.graph] if has_inner else []
    weights = {id(tensor): (value, tensor) for value, tensor in constants.items()}.values()
    return Cost(
        nodes=len(nodes),
        parameters=sum(t.size for value, t in weights if not _is_scale_or_zero_point(value)),
        weight_bytes=sum(tensor.nbytes for _, tensor in weights),
        macs=sum(row.macs or 0 for row in rows),
        unknown=(
            *(label(n) for n, row in zip(model.graph, rows, strict=True) if row.macs is None),
            *(label(n) for n in elsewhere if is_standard(n, *_MACS)),
        ),
        opset=default_opset(model),
        per_node=tuple(rows),
    )


_Constants = Mapping["ir.Value | None", ir.TensorProtocol]


def _node_cost(node: ir.Node, shapes: _Shapes, constants: _Constants) -> NodeCost:
    op_type = node.op_type
    rule = _MACS.get(op_type) if node.domain in DEFAULT_DOMAINS else None
    macs = rule(node, shapes) if rule else 0
    held: dict[int, int] = {}
    for value in node.inputs:
        source = None if value is None else value.producer()
        if source is not None and is_standard(source, "DequantizeLinear"):
            value = source.inputs[0]
        tensor = constants.get(value)
        if tensor is not None and value is not None and not value.is_graph_input():
            held[id(tensor)] = tensor.size
    return NodeCost(node.name or "", op_type, macs, sum(held.values()))


class _Shapes:
    """The shapes of values where they are numbers, for a batch of one."""

    def __init__(self, facts: Facts, seen: Mapping[str, tuple[int, ...]]) -> None:
        self._facts = facts
        self._seen = seen
        self._one = dict.fromkeys(facts.batch_symbols, 1)

    def __call__(self, value: ir.Value | None) -> tuple[int, ...] | None:
        dims = self._facts.dims(value)
        shape = None if dims is None else [self._number(dim) for dim in dims]
        if shape is not None and None not in shape:
            return tuple(dim for dim in shape if dim is not None)
        # Last what the file says: of a graph written for another batch size, say.
        return None if value is None else self._seen.get(value.name or "") or static_shape(value)

    def _number(self, dim: Dim) -> int | None:
        return dim if isinstance(dim, int) else dim.number(self._one)


def _constants(graphs: Sequence[ir.Graph]) -> dict[ir.Value | None, ir.TensorProtocol]:
    """What the initializers, inputs' defaults included, and Constant nodes of `graphs` hold."""
    found: dict[ir.Value | None, ir.TensorProtocol] = {}
    for graph in graphs:
        for value in graph.initializers.data.values():
            if value.const_value is not None:
                found[value] = value.const_value
        for node in graph:
            if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
                tensor = constant_tensor(node.outputs[0])
                if tensor is not None:
                    found[node.outputs[0]] = tensor
    return found


def _is_scale_or_zero_point(value: ir.Value | None) -> bool:
    uses = value.uses() if value is not None else ()
    return bool(uses) and all(
        use.idx > 0 and is_standard(use.node, "QuantizeLinear", "DequantizeLinear") for use in uses
    )


def _conv(node: ir.Node, shape: _Shapes) -> int | None:
    weight, output = shape(node.inputs[1]), shape(node.outputs[0])
    if weight is None or output is None:
        return None
    return math.prod(output) * math.prod(weight[1:])  # W is [M, C / group, *kernel]


def _conv_transpose(node: ir.Node, shape: _Shapes) -> int | None:
    weight, data = shape(node.inputs[1]), shape(node.inputs[0])
    if weight is None or data is None:
        return None
    return math.prod(data) * math.prod(weight[1:])  # W is [C, M / group, *kernel]


def _matmul(node: ir.Node, shape: _Shapes) -> int | None:
    data, output = shape(node.inputs[0]), shape(node.outputs[0])
    if not data or output is None:
        return None
    return math.prod(output) * data[-1]


def _gemm(node: ir.Node, shape: _Shapes) -> int | None:
    data, output = shape(node.inputs[0]), shape(node.outputs[0])
    if data is None or len(data) != 2 or output is None:
        return None
    return math.prod(output) * data[0 if node.attributes.get_int("transA", 0) else 1]


def _qlinear_conv(node: ir.Node, shape: _Shapes) -> int | None:
    weight, output = shape(node.inputs[3]), shape(node.outputs[0])
    if weight is None or output is None:
        return None
    return math.prod(output) * math.prod(weight[1:])


def _recurrent(node: ir.Node, shape: _Shapes) -> int | None:
    data, weight, recurrence = (shape(value) for value in node.inputs[:3])
    if data is None or len(data) != 3 or weight is None or recurrence is None:
        return None
    # X is [length, batch, input], or [batch, length, input]; W is [directions, gates * hidden,
    # input] and R [directions, gates * hidden, hidden].
    return data[0] * data[1] * (math.prod(weight) + math.prod(recurrence))


_MACS: dict[str, MacRule] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
