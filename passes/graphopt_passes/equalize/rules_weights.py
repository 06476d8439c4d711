"""Operators whose constants take up factors: they make channels of any scale."""

from __future__ import annotations

import numpy as np

from graphopt_passes.equalize.sweep import BarrierError, Op, Rule
from graphopt_passes.prune_channels.atoms import Labels


def conv(op: Op) -> Labels:
    outputs, inputs, *kernel = op.shape(1)
    rank, groups = len(kernel) + 2, op.attribute("group", 1)
    made = op.make(outputs, 1, rank)
    read = np.broadcast_to(op.along(0, 1, rank), (inputs * groups,)).reshape(groups, inputs)
    if groups > 1:
        read = np.repeat(read, outputs // groups, axis=0)
    plain = [1] * len(kernel)
    op.scale(1, made.reshape(-1, 1, *plain), read.reshape(-1, inputs, *plain))
    _bias(op, 2, made.reshape(-1))
    return made


def conv_transpose(op: Op) -> Labels:
    inputs, outputs, *kernel = op.shape(1)
    rank, groups = len(kernel) + 2, op.attribute("group", 1)
    made = op.make(outputs * groups, 1, rank)
    read = np.broadcast_to(op.along(0, 1, rank), (inputs,))
    up = made.reshape(groups, outputs)
    if groups > 1:
        up = np.repeat(up, inputs // groups, axis=0)
    plain = [1] * len(kernel)
    op.scale(1, up.reshape(-1, outputs, *plain), read.reshape(-1, 1, *plain))
    _bias(op, 2, made.reshape(-1))
    return made


def gemm(op: Op) -> Labels:
    shape = op.shape(1)
    if op.attribute("transA", 0):
        raise BarrierError("its input is transposed")
    turned = bool(op.attribute("transB", 0))
    inputs, outputs = shape[::-1] if turned else shape
    made = op.make(outputs, 1, 2)
    read = np.broadcast_to(op.along(0, 1, 2), (inputs,)).reshape(-1, 1)
    op.scale(1, made.T if turned else made, read.T if turned else read)
    _bias(op, 2, made.reshape(-1))
    return made


def matmul(op: Op) -> Labels:
    if not op.is_constant(1):
        return _product(op)
    if len(op.shape(1)) != 2:
        raise BarrierError("its weight is not a matrix")
    inputs, outputs = op.shape(1)
    rank = len(op.dims(0))
    if rank < 2:
        raise BarrierError("its input is a vector")
    made = op.make(outputs, -1, rank)
    read = np.broadcast_to(op.along(0, -1, rank), (inputs,))
    op.scale(1, made.reshape(1, -1), read.reshape(-1, 1))
    return made


def _product(op: Op) -> Labels:
    """Of two activations: the columns of the right one keep their factors, such as those of the
    values in an attention; or the rows of the left one."""
    left, right = op.labels(0), op.labels(1)
    if op.is_frozen(left) and right.ndim == len(op.out_dims()):
        return op.level(right, [-2])
    if op.is_frozen(right) and left.ndim == len(op.out_dims()):
        return op.level(left, [-1])
    raise BarrierError("it multiplies two activations")


def batch_norm(op: Op) -> Labels:
    if op.attribute("training_mode", 0) or sum(bool(v.uses()) for v in op.node.outputs) > 1:
        raise BarrierError("it is in training mode")
    rank, (channels,) = len(op.dims(0)), op.shape(1)
    made = op.make(channels, 1, rank)
    read = np.broadcast_to(op.along(0, 1, rank), (channels,))
    # (x - mean) * scale / sqrt(var + epsilon) + bias, with x and mean scaled alike
    op.scale(1, made.reshape(-1), read)
    op.scale(2, made.reshape(-1))
    op.scale(3, read)
    return made


def channel_norm(op: Op) -> Labels:
    """InstanceNormalization and GroupNormalization: the epsilon ties their input to its scale."""
    op.freeze(op.labels(0))
    (parameters,) = op.shape(1)
    dims = op.dims(0)
    if parameters != dims[1]:  # GroupNormalization before opset 21 has one for each group
        raise BarrierError("its scale is not one for each channel")
    made = op.make(parameters, 1, len(dims))
    op.scale(1, made.reshape(-1))
    op.scale(2, made.reshape(-1))
    return made


def layer_norm(op: Op) -> Labels:
    """LayerNormalization and RMSNormalization."""
    if any(value.uses() for value in op.node.outputs[1:]):
        raise BarrierError("its statistics are read")
    op.freeze(op.labels(0))
    shape, rank = op.shape(1), len(op.dims(0))
    if not shape or len(shape) > rank:
        raise BarrierError("its scale is not one for each channel")
    made = op.make(shape[-1], -1, rank)
    op.scale(1, made.reshape(-1))
    if op.has(2):
        op.scale(2, made.reshape(-1))
    return made


def multiply(op: Op) -> Labels:
    left, right = (0, 1) if not op.is_constant(0) else (1, 0)
    if op.is_constant(right):
        return _by_constant(op, left, right)
    if op.is_frozen(op.labels(left)):
        left, right = right, left
    op.freeze(op.labels(right), f"{op}, which it gates")
    return op.labels(left)


def divide(op: Op) -> Labels:
    if op.is_constant(0):
        raise BarrierError("it divides by its input")
    if not op.is_constant(1):
        op.freeze(op.labels(1))
    return op.labels(0)


def _by_constant(op: Op, index: int, constant: int) -> Labels:
    """A constant with one axis that is longer than 1 makes channels of any scale."""
    rank, shape = len(op.dims(index)), op.shape(constant)
    long = [axis - len(shape) for axis, size in enumerate(shape) if size > 1]
    labels = op.labels(index)
    if len(long) != 1 or len(shape) > rank:
        return labels
    made = op.make(shape[long[0]], long[0], rank)
    read = np.broadcast_to(op.along(index, long[0], rank), (shape[long[0]],))
    shaped = made.reshape(made.shape[rank - len(shape) :])
    op.scale(constant, shaped, read.reshape(shaped.shape))
    return made


def _bias(op: Op, index: int, made: Labels) -> None:
    if op.has(index):
        op.follow(index, made)


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": divide,
    "Gemm": gemm,
    "GroupNormalization": channel_norm,
    "InstanceNormalization": channel_norm,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "Mul": multiply,
    "RMSNormalization": layer_norm,
}
