"""Which images ONNX Runtime makes in blocks of channels (its NchwcTransformer, version 1.32)."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import Rewriter

_ACTIVATIONS = ("HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Tanh")
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_HOPS = 4
"""So many operators behind a Conv are looked through: an activation, spelled out, and a pool."""
REORDERED = 4
"""What the channels of an image are a multiple of that can be brought into blocks."""


def is_blocked(value: ir.Value | None, at: Rewriter, hops: int = _HOPS) -> bool:
    """Whether it is an image that a kernel makes in blocks."""
    node = None if value is None else value.producer()
    if node is None or hops == 0:
        return False
    if at.is_op(node, "Conv"):
        return has_kernel(node, at)
    if at.is_op(node, "Clip"):  # only as a part of the Conv
        conv = at.before(node, 0, "Conv")
        return conv is not None and has_kernel(conv, at)
    if at.is_op(node, *_ACTIVATIONS):
        return is_blocked(node.inputs[0], at, hops - 1)
    if at.is_op(node, *_POOLS):
        return fills_blocks(node.inputs[0], at) and is_blocked(node.inputs[0], at, hops - 1)
    if at.is_op(node, "Add", "Mul"):
        first, second = node.inputs
        return at.dims(first) == at.dims(second) is not None and all(
            is_blocked(operand, at, hops - 1) for operand in node.inputs
        )
    return False


def fills_blocks(value: ir.Value | None, at: Rewriter) -> bool:
    """Whether the channels of an image fill whole blocks."""
    dims = at.dims(value)
    channels = dims[1] if dims is not None and len(dims) == 4 else None
    return isinstance(channels, int) and channels % at.context.target.blocked_channels == 0


def has_kernel(conv: ir.Node, at: Rewriter) -> bool:
    """Whether there is a blocked kernel for a Conv of this many channels."""
    weight, block = at.dims(conv.inputs[1]), at.context.target.blocked_channels
    if at.dtype(conv.inputs[1]) != ir.DataType.FLOAT or weight is None or len(weight) != 4:
        return False
    if not all(at.is_constant(value) for value in conv.inputs[1:] if value is not None):
        return False
    outputs, inputs = weight[:2]
    groups: int = conv.attributes.get_int("group", 1)
    if not isinstance(outputs, int) or not isinstance(inputs, int):
        return False
    if groups == 1:
        return inputs < block or inputs % REORDERED == 0
    if inputs == 1 and outputs == groups:
        return outputs % REORDERED == 0
    return inputs % block == 0 and outputs // groups % block == 0
