"""Initial states of recurrent layers that are what is taken without them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter, Rule

# What can stand between a constant and the states made of it, none of which changes an element.
_MOVES = (
    "Expand",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
)
_MAX_MOVES = 8


def _zero_state(node: ir.Node, at: Rewriter) -> bool:
    """An initial state of zeros of LSTM, GRU or RNN -> none."""
    last = 7 if node.op_type == "LSTM" else 6
    for index in range(5, min(last, len(node.inputs))):
        if node.inputs[index] is not None and _is_zero(node.inputs[index], at):
            at.set_input(node, index, None)
            return True
    return False


def _is_zero(value: ir.Value | None, at: Rewriter) -> bool:
    """Whether every element of `value`, of which there may be none, is +0."""
    for _ in range(_MAX_MOVES):
        node = at.producer(value, *_MOVES, "Unsqueeze", "ConstantOfShape")
        if node is None:
            array = at.array(value)
            return array is not None and not np.any(array) and not np.any(np.signbit(array))
        if node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            return fill is None or not any(fill.as_tensor().tobytes())
        value = node.inputs[0]
    return False


RULES = (Rule("zero-initial-state", ("GRU", "LSTM", "RNN"), _zero_state),)
