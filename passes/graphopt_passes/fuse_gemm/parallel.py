"""Several products or Convs of the same input become one, and a Split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting import Rewriter
from graphopt_passes.fuse_gemm.linear import FLOATS, is_row

_MOST_BRANCHES = 16


@dataclass(frozen=True)
class Branch:
    """A product or Conv with a constant weight, and the Add of its bias if there is one."""

    node: ir.Node
    add: ir.Node | None
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        return (self.add or self.node).outputs[0]


def merge_parallel(node: ir.Node, at: Rewriter) -> bool:
    """MatMul, Gemm or Conv of one input, side by side -> one of them and a Split."""
    value = node.inputs[0]
    if value is None or not at.is_op(node, node.op_type):
        return False
    if not (at.has_operator("Split", 2) and at.has_operator("Add", 7)):
        return False
    uses = value.uses()
    if not 2 <= len(uses) <= 2 * _MOST_BRANCHES:
        return False
    branches = [
        branch
        for use in uses
        if use.idx == 0 and use.node.graph is node.graph and _is_like(use.node, node, at)
        if (branch := _branch(use.node, at)) is not None
    ]
    has_bias = any(branch.bias is not None for branch in branches)
    adds = node.op_type == "MatMul" and has_bias
    nodes = sum(2 if branch.add is not None else 1 for branch in branches)
    if len(branches) > _MOST_BRANCHES or nodes <= 2 + adds:
        return False
    if node not in [branch.node for branch in branches]:
        return False
    _merge(branches, has_bias, at)
    return True


def _axis(node: ir.Node) -> int:
    """That of the output channels in the weight."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.attributes.get_int("transB", 0) else 1


def _is_like(one: ir.Node, other: ir.Node, at: Rewriter) -> bool:
    """Whether both do the same with weights that differ in their output channels only."""
    if not at.is_op(one, other.op_type) or one.attributes != other.attributes:
        return False
    if one.attributes.get_int("group", 1) != 1:
        return False
    tensors = [constant_tensor(node.inputs[1]) for node in (one, other)]
    if any(tensor is None or tensor.dtype not in FLOATS for tensor in tensors):
        return False
    shapes = [list(tensor.shape.numpy()) for tensor in tensors if tensor is not None]
    if len(shapes[0]) != len(shapes[1]) or tensors[0].dtype != tensors[1].dtype:  # type: ignore[union-attr]
        return False
    if one.op_type != "Conv" and len(shapes[0]) != 2:
        return False
    for shape in shapes:
        del shape[_axis(other)]
    return shapes[0] == shapes[1] and at.owns(one, 1)


def _branch(node: ir.Node, at: Rewriter) -> Branch | None:
    columns = at.facts[node.inputs[1]].static_dims
    if columns is None:
        return None
    channels = columns[_axis(node)]
    if node.op_type != "MatMul":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return Branch(node, None, bias) if bias is None or is_row(bias, channels, 2) else None
    add = at.after(node, "Add")
    if add is None:
        return Branch(node, None, None)
    bias = add.inputs[1 if add.inputs[0] is node.outputs[0] else 0]
    # The rank of the product is not known here: only what cannot raise it.
    tensor = constant_tensor(bias)
    if tensor is None or len(tensor.shape) > 1 or not is_row(bias, channels, 1):
        return Branch(node, None, None)
    return Branch(node, add, bias)


def _merge(branches: Sequence[Branch], has_bias: bool, at: Rewriter) -> None:
    first = _earliest([branch.node for branch in branches])
    weights = [_array(branch.node.inputs[1], at) for branch in branches]
    axis = _axis(first)
    sizes = [weight.shape[axis] for weight in weights]
    inputs = [first.inputs[0], _constant(np.concatenate(weights, axis), first, "weight", at)]
    row = None
    if has_bias:
        rows = [
            _row(b, size, w.dtype, at) for b, size, w in zip(branches, sizes, weights, strict=True)
        ]
        row = _constant(np.concatenate(rows), first, "bias", at)
        if first.op_type != "MatMul":
            inputs.append(row)
    merged = at.insert(first, first.op_type, inputs, first.attributes)
    if row is not None and first.op_type == "MatMul":
        merged = at.insert(first, "Add", [merged, row])
    parts = _split(first, merged, sizes, at)
    for branch, part in zip(branches, parts, strict=True):
        at.replace(branch.output, part)


def _earliest(nodes: list[ir.Node]) -> ir.Node:
    return next(node for node in nodes[0].graph or () if node in nodes)


def _array(value: ir.Value | None, at: Rewriter) -> np.ndarray:
    array = at.array(value)
    if array is None:
        raise ValueError("a weight is not constant")
    return array


def _row(branch: Branch, size: int, dtype: np.dtype, at: Rewriter) -> np.ndarray:
    if branch.bias is None:
        return np.zeros(size, dtype)
    return np.broadcast_to(_array(branch.bias, at).reshape(-1), (size,))


def _constant(data: np.ndarray, first: ir.Node, what: str, at: Rewriter) -> ir.Value:
    return at.constant(data, f"{first.outputs[0].name}_merged_{what}", first)


def _split(before: ir.Node, value: ir.Value, sizes: list[int], at: Rewriter) -> Sequence[ir.Value]:
    axis = 1 if before.op_type == "Conv" else -1
    inputs, attributes = [value], {"axis": axis, "split": sizes}
    if at.opset >= 13:
        inputs.append(_constant(np.array(sizes, np.int64), before, "sizes", at))
        attributes = {"axis": axis}
    return at.insert_node(before, "Split", inputs, attributes, outputs=len(sizes)).outputs
