"""Functions of values that they leave alone, as the node before tells."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt_passes.eliminate_noops.handing import noops

_ROUNDED = ("Ceil", "Floor", "Round")

# Whose results a Relu leaves alone, in every bit: it keeps -0.0 and NaN.
_NOT_NEGATIVE = ("Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")

# What only moves elements. Not MaxPool, of which runtimes make the least number where there is NaN.
_MOVES = ("Expand", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_MAX_MOVES = 4


def _relu(node: ir.Node, at: Rewriter) -> ir.Value | None:
    value = node.inputs[0]
    for _ in range(_MAX_MOVES):
        move = at.producer(value, *_MOVES)
        if move is None:
            break
        value = move.inputs[0]
    if at.producer(value, *_NOT_NEGATIVE) is not None:
        return node.inputs[0]
    # The least of the integers is its own magnitude.
    dtype = at.dtype(value) if at.producer(value, "Abs") is not None else None
    return node.inputs[0] if dtype is not None and dtype.is_floating_point() else None


def _rounding(node: ir.Node, at: Rewriter) -> ir.Value | None:
    return node.inputs[0] if at.producer(node.inputs[0], "Sign", *_ROUNDED) else None


def _again(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Abs of Abs, Sign of Sign."""
    return node.inputs[0] if at.producer(node.inputs[0], node.op_type) else None


RULES = (
    *noops(_relu, "Relu"),
    *noops(_rounding, *_ROUNDED),
    *noops(_again, "Abs", "Sign"),
)
