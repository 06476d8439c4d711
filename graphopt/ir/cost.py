"""What a model costs: multiply-accumulates, parameters and bytes, per node and in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir.facts import Dim, Facts
from graphopt.ir.query import (
    DEFAULT_DOMAINS,
    all_graphs,
    constant_tensor,
    count_nodes,
    default_opset,
    is_standard,
    nodes_of,
    static_shape,
)

MacRule = Callable[[ir.Node, "_Shapes"], "int | None"]


@dataclass(frozen=True)
class NodeCost:
    """The cost of one node. `macs` is None where a shape is not known."""

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
    """Multiply-accumulates of Conv, ConvTranspose, Gemm, MatMul and their integer kin."""
    unknown: tuple[str, ...]
    """Names of the nodes of those kinds that count as 0: their shapes are not known, or they are
    in a subgraph or function, which may run any number of times."""
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
    rows: list[NodeCost] = []
    for node in model.graph:
        rule = _MACS.get(node.op_type) if node.domain in DEFAULT_DOMAINS else None
        held = {id(t): t for v in node.inputs if (t := constant_tensor(v)) is not None}
        rows.append(
            NodeCost(
                name=node.name or "",
                op_type=node.op_type,
                macs=rule(node, look_up) if rule else 0,
                parameters=sum(tensor.size for tensor in held.values()),
            )
        )
    constants = _constants(model)
    return Cost(
        nodes=count_nodes(model),
        parameters=sum(tensor.size for tensor, is_parameter in constants if is_parameter),
        weight_bytes=sum(tensor.nbytes for tensor, _ in constants),
        macs=sum(row.macs or 0 for row in rows),
        unknown=(*(row.name for row in rows if row.macs is None), *_elsewhere(model)),
        opset=default_opset(model),
        per_node=tuple(rows),
    )


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


def _elsewhere(model: ir.Model) -> Iterator[str]:
    for node in nodes_of(model):
        if is_standard(node, *_MACS) and node.graph is not model.graph:
            yield node.name or ""


def _constants(model: ir.Model) -> list[tuple[ir.TensorProtocol, bool]]:
    """Every constant of `model` once, and whether it is a parameter."""
    found: dict[int, tuple[ir.TensorProtocol, bool]] = {}
    for graph in all_graphs(model):
        values = list(graph.initializers.values())
        values += [node.outputs[0] for node in graph if is_standard(node, "Constant")]
        for value in values:
            tensor = value.const_value if value.is_initializer() else constant_tensor(value)
            if tensor is not None:
                found[id(tensor)] = tensor, not _is_scale_or_zero_point(value)
    return list(found.values())


def _is_scale_or_zero_point(value: ir.Value) -> bool:
    uses = value.uses()
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


_MACS: dict[str, MacRule] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
}
