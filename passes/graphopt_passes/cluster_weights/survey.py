"""Which weights are stored as indices, and how their channels lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.ir import constant_tensor, is_standard
from graphopt_passes.quantize_weights.left import Left
from graphopt_passes.quantize_weights.matrices import behind_transposes

if TYPE_CHECKING:
    from graphopt_passes.cluster_weights import ClusterWeights

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
}
LEAST_PER_LEVEL = 16
"""A channel has a codebook of its own if it has this many numbers for each value in it: at 4 bits
the float32 codebooks then add at most half as much again to the indices."""


@dataclass(frozen=True)
class Weight:
    """A weight to store as indices.

    It is seen as a matrix whose rows, or columns, have a codebook each.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    node: ir.Node
    """The first that reads it."""
    matrix: tuple[int, int]
    by_column: bool
    shared: bool
    """Whether there is one codebook for all."""


def survey(
    model: ir.Model, options: ClusterWeights, excluded: set[ir.Node]
) -> tuple[list[Weight], list[Left]]:
    """Every weight that a node of the main graph reads, in order: to cluster, and to leave."""
    weights: list[Weight] = []
    left: list[Left] = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        if not is_standard(node, *WEIGHT_INPUTS):
            continue
        for index in WEIGHT_INPUTS[node.op_type]:
            given = node.inputs[index] if index < len(node.inputs) else None
            value, turned = behind_transposes(given)
            tensor = constant_tensor(value)
            if value is None or tensor is None or value in seen:
                continue
            seen.add(value)
            reason = _reason(node, value, tensor, options, excluded)
            if reason is None:
                weights.append(_weight(node, index, turned, value, tensor, options))
            elif reason:
                left.append(Left(node, reason))
    return weights, left


def _reason(
    node: ir.Node,
    value: ir.Value,
    tensor: ir.TensorProtocol,
    options: ClusterWeights,
    excluded: set[ir.Node],
) -> str | None:
    """Why the weight stays; "" where nobody expects otherwise."""
    if node.op_type == "Gather":
        if tensor.dtype not in FLOAT_TYPES:
            return ""
        if not options.embeddings:
            return "embeddings=true would cluster its table"
    if tensor.dtype not in FLOAT_TYPES:
        return f"its weight is {tensor.dtype.name.lower()}"
    if tensor.size < options.min_elements:
        return f"its weight has fewer than {options.min_elements} elements"
    if node in excluded or any(use.node in excluded for use in value.uses()):
        return "excluded"
    return "its weight is an output of the model, too" if value.is_graph_output() else None


def _weight(
    node: ir.Node,
    index: int,
    turned: bool,
    value: ir.Value,
    tensor: ir.TensorProtocol,
    options: ClusterWeights,
) -> Weight:
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    by_column = _outputs_are_last(node, index) != turned
    split = len(shape) - 1 if by_column else _leading(node)
    matrix = math.prod(shape[:split]), math.prod(shape[split:])
    each = matrix[0 if by_column else 1]
    shared = options.per == "tensor" or each < LEAST_PER_LEVEL << options.bits
    return Weight(value, tensor, node, matrix, by_column, shared)


def _outputs_are_last(node: ir.Node, index: int) -> bool:
    """Whether the last axis of the weight has the output channels, not the first."""
    if node.op_type == "MatMul":
        return index == 1
    if node.op_type == "Gemm":
        turned = node.attributes.get_int("transB" if index else "transA", 0) == 1
        return turned != (index == 1)
    return False


def _leading(node: ir.Node) -> int:
    """How many of the first axes a row of the matrix stands for."""
    return 2 if node.op_type in ("LSTM", "GRU", "RNN") else 1  # directions, gates
