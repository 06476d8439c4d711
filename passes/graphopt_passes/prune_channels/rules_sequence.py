"""Rules of recurrent networks and of Einsum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.rules_linear import broadcast
from graphopt_passes.prune_channels.sweep import Decline, Op, Rule

if TYPE_CHECKING:
    from graphopt_passes.prune_channels.apply import Editor

# Inputs, in the order of the operator.
X, W, R, B, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES = range(8)


def recurrent(op: Op) -> None:
    """RNN, GRU and LSTM: a hidden unit is one atom in all gates, directions and states."""
    x, w, r = op.labels(X), op.labels(W), op.labels(R)
    units = r[2]
    for axis in x[:2]:
        op.freeze(axis)
    op.tie(x[2], w[2])
    for index in (W, R, B, PEEPHOLES):
        if op.has(index):
            directions, gates = op.labels(index)[:2]
            op.freeze(directions)
            op.tie(np.tile(units, len(gates) // len(units)), gates)
    for index in (INITIAL_H, INITIAL_C):
        if op.has(index):
            *others, state = op.labels(index)
            op.tie(state, units)
            for axis in others:
                op.freeze(axis)
    if op.has(LENGTHS):
        op.freeze(op.labels(LENGTHS)[0])
    op.mix(R, [2])
    op.mix(X, [2])
    for index, value in enumerate(op.node.outputs):
        if value.name:
            op.emit([*(op.frozen(n) for n in op.out_shape(index)[:-1]), units], index)

    def change(editor: Editor, node: ir.Node) -> None:
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", editor.count(units))

    op.fix(change)


def einsum(op: Op) -> None:
    """Axes of the same letter go together; a letter that the output lacks is summed over."""
    equation = (op.node.attributes.get_string("equation", "") or "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation:
        raise Decline(f"its equation is '{equation}'")
    if any(len(set(term)) < len(term) for term in (*terms, right)):
        raise Decline("a letter stands twice in a term")
    operands = [op.labels(index) for index in range(len(terms))]
    axes: dict[str, list[Labels]] = {}
    for term, labels in zip(terms, operands, strict=True):
        for letter, axis in zip(term, labels, strict=True):
            axes.setdefault(letter, []).append(axis)
    joined = {letter: broadcast(op, same) for letter, same in axes.items()}
    summed: dict[int, list[int]] = {}
    for letter in axes:
        if letter not in right:
            # One of the operands has to hold zeros; a weight keeps its numbers if it can.
            index = min(
                (index for index, term in enumerate(terms) if letter in term),
                key=lambda index: (op.is_constant(index), index),
            )
            summed.setdefault(index, []).append(terms[index].index(letter))
    for index, places in sorted(summed.items()):
        op.mix(index, places)
    op.emit([joined[letter] for letter in right])


RULES: dict[str, Rule] = {
    "Einsum": einsum,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), recurrent),
}
