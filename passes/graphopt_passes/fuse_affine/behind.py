"""A scale and a shift behind a host go into its weight and its bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.affine import Affine, Step, require_arithmetic, step_of
from graphopt_passes.fuse_affine.hosts import (
    HOSTS,
    WEIGHT,
    Change,
    Host,
    apply,
    change_bias,
    host_of,
    scale_weight,
)
from graphopt_passes.fuse_affine.norm import NORM, affine_of
from graphopt_passes.fuse_affine.scaling import cast


def fold_norm(node: ir.Node, at: Rewriter, max_growth: int) -> bool:
    """Conv -> BatchNormalization and the like."""
    affine = affine_of(node, at.opset)
    value = node.inputs[0]
    before = None if value is None else value.producer()
    if before is None:
        raise DeclinedError("there is no node before it")
    bias = _product_bias(before, at)
    host = host_of(before if bias is None else _producer(bias.value, at), at)
    if host is None:
        raise DeclinedError(f"the {before.op_type} before it cannot take it over")
    _require_alone(node, 0, at)
    if affine.scale.size != host.channels:
        raise DeclinedError("the node before it has another number of channels")
    if host.axis != -1 or host.node.op_type == NORM:
        return _fold(node, host, affine, at, max_growth)
    rank = at.rank(value)
    if rank is None:
        raise DeclinedError("the rank of the matrix product before it is not known")
    if rank != 2:
        raise DeclinedError("its channels are not the columns of the matrix product before it")
    if bias is not None:
        return _fold_into_product(node, host, bias, affine, at, max_growth)
    return _fold(node, host, affine, at, max_growth)


def fold_step(node: ir.Node, at: Rewriter, max_growth: int) -> bool:
    """Conv -> Mul, Div, Add, Sub or Neg with a constant, and the like."""
    step = step_of(node, at)
    before = None if step is None else _producer(step.value, at, "Add", "Sub")
    if step is None or before is None:
        return False
    bias = _product_bias(before, at)
    host = host_of(before if bias is None else _producer(bias.value, at), at)
    if host is None or not _is_foldable(step, host, bias, at):
        return False
    if not step.runs_along(host.axis, host.channels, host.rank):
        raise DeclinedError("its constant does not run along the channels of the node before it")
    _require_alone(node, step.data, at)
    if bias is not None:
        return _fold_into_product(node, host, bias, step.affine(), at, max_growth)
    return _fold(node, host, step.affine(), at, max_growth)


def _producer(value: ir.Value | None, at: Rewriter, *more: str) -> ir.Node | None:
    return at.producer(value, *HOSTS, *more)


def _product_bias(node: ir.Node, at: Rewriter) -> Step | None:
    """`node` as the Add of a constant to a MatMul, whose only use it is."""
    if not at.is_op(node, "Add", "Sub"):
        return None
    step = step_of(node, at)
    return None if step is None or at.before(node, step.data, "MatMul") is None else step


def _is_foldable(step: Step, host: Host, bias: Step | None, at: Rewriter) -> bool:
    """Whether folding `step` is what one would expect, and leaves fewer nodes."""
    if host.node.op_type in ("MatMul", "Gemm"):
        weight = host.weight
        if not at.is_constant(weight) and at.producer(weight, "DequantizeLinear") is None:
            return False  # a product of two activations
    if host.node.op_type == "MatMul":
        return step.is_scale if bias is None else step.node.op_type != "Add"
    return True


def _require_alone(node: ir.Node, index: int, at: Rewriter) -> None:
    """Declines unless the node before `node` works for it alone."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if value is None or producer is None or at.before(node, index, producer.op_type) is not None:
        return
    if producer.graph is not node.graph:
        raise DeclinedError("the node before it is in another graph")
    if value.is_graph_output():
        raise DeclinedError("the value before it is an output of the graph")
    raise DeclinedError("the value before it is used elsewhere too")


def _fold(node: ir.Node, host: Host, affine: Affine, at: Rewriter, max_growth: int) -> bool:
    """Gives `host` the effect of `node`; what a MatMul cannot take over becomes an Add."""
    if host.node.op_type == NORM:
        affine_of(host.node, at.opset)  # declines unless it is in inference mode
    changes = scale_weight(host, affine.scale, host.layout.outputs, at, max_growth)
    if host.node.op_type != "MatMul":
        changes += change_bias(host, affine.scale, affine.shift, at)
    elif affine.shifts:
        require_arithmetic(at)
        shift = _constant(affine.shift, host, at)
        apply(changes, at)
        value = at.constant(shift, host.base("bias"), node)
        at.become(node, "Add", [host.node.outputs[0], value])
        return True
    apply(changes, at)
    return at.replace(node.outputs[0], host.node.outputs[0])


def _fold_into_product(
    node: ir.Node, host: Host, bias: Step, affine: Affine, at: Rewriter, max_growth: int
) -> bool:
    """`node` behind host @ W + c, or c - host @ W."""
    require_arithmetic(at)
    scale = affine.scale * bias.scale()
    changes = scale_weight(host, scale, host.layout.outputs, at, max_growth)
    channels = (-1, *[1] * (-1 - host.axis))
    moved = bias.shift() * affine.scale.reshape(channels) + affine.shift.reshape(channels)
    if moved.size > max(bias.shift().size, host.channels):
        raise DeclinedError("the bias before it would grow")
    shift = _constant(moved, host, at)
    index, add = 1 - bias.data, bias.node
    apply([*changes, Change(add, index, shift, host.base("bias"))], at)
    if add.op_type == "Sub":
        at.become(add, "Add", [add.inputs[bias.data], add.inputs[index]])
    return at.replace(node.outputs[0], add.outputs[0])


def _constant(exact: np.ndarray, host: Host, at: Rewriter) -> np.ndarray:
    """`exact` in the type of the weight."""
    dtype = at.dtype(host.node.inputs[WEIGHT])
    if dtype is None:
        raise DeclinedError("the type of the weight is not known")
    return cast(exact, dtype.numpy())
