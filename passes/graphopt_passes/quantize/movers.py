"""Which nodes only move values, so that integers can be moved in place of floats."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import constant_array, rank


def only_moves(node: ir.Node) -> bool:
    """Whether `node`, a mover by its operator, also is one by its attributes and outputs."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False  # the indices of a MaxPool, the mask of a Dropout
    if node.op_type == "Dropout":
        return len(node.inputs) < 3 or node.inputs[2] is None  # it may drop, when it trains
    return node.op_type != "Pad" or (_pads_space_one_way(node) and _fills_with_nothing_new(node))


def _fills_with_nothing_new(pad: ir.Node) -> bool:
    """Whether `pad` writes zeros, or values that it finds in its input."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return True
    fill = pad.inputs[2] if len(pad.inputs) > 2 else None
    if fill is None:
        return True
    array = constant_array(fill)
    return array is not None and not array.any()


def _pads_space_one_way(pad: ir.Node) -> bool:
    """Whether `pad` only grows or only crops, and neither the batch nor the channels.

    TensorRT-RTX 1.7 computes a Conv behind any other Pad of integers in float.
    """
    pads = constant_array(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if pads is None:
        return False
    axes = list(range(len(pads) // 2))
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        named, size = constant_array(pad.inputs[3]), rank(pad.inputs[0])
        if named is None or (size is None and (named < 0).any()):
            return False
        axes = [int(axis) % size if size else int(axis) for axis in named]
    by_axis = list(zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True))
    outer = any(before or after for axis, before, after in by_axis if axis < 2)
    return not outer and (bool((pads >= 0).all()) or bool((pads <= 0).all()))
