"""Scores from the weights alone: L1 of what makes a channel, L2 of all that belongs to it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt_passes.prune_channels.scores.task import Task, along

WEIGHTED = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Einsum": (0, 1),
    "GRU": (1, 2),
    "Gather": (0,),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "RNN": (1, 2),
}
"""The inputs of operators that are weights, rather than offsets or statistics."""


def l1_scores(task: Task) -> dict[int, float]:
    """For each atom the sum of |w| over the weight slices that make its channels.

    Channels that no layer makes are made by a product with a constant on its left, or of more than
    two axes; where there is none either, all constants that they occur in count. All atoms of a
    group are of the same kind. Atoms in no floating-point constant have no score.
    """
    layers = [(layer.slot, layer.out_axis) for layer in task.found.layers]
    products = [
        (slot, axis)
        for slot in task.found.slots
        for number, index in slot.uses
        if task.nodes[number].op_type in ("MatMul", "Gemm")
        and (axis := _made_axis(task.nodes[number], index, len(slot.labels))) is not None
    ]
    others = [(slot, axis) for slot in task.found.slots for axis in range(len(slot.labels))]
    scores: dict[int, float] = {}
    for places in (layers, products, others):
        more: dict[int, float] = {}
        for slot, axis in places:
            array = task.constant(task.value(slot))
            if array is not None:
                task.add(more, slot.labels[axis], along(np.abs(array), axis))
        scores = more | scores
    return scores


def l2_scores(task: Task) -> dict[int, float]:
    """For each atom the sum of squares of all weight slices that it occurs in.

    That is the norm of a group of Fang et al. 2023, "DepGraph", section 3.3, squared: the
    slices of producers and of consumers count. Biases, norms and other vectors do not.
    Atoms in no floating-point weight have no score.
    """
    scores: dict[int, float] = {}
    for slot in task.found.slots:
        nodes = [(task.nodes[number], index) for number, index in slot.uses]
        if not any(index in WEIGHTED.get(node.op_type, ()) for node, index in nodes):
            continue
        array = task.constant(task.value(slot))
        if array is None:
            continue
        squares = np.square(array)
        for axis, labels in enumerate(slot.labels):
            if len(labels) > 1:
                task.add(scores, labels, along(squares, axis))
    return scores


def _made_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """The axis of the constant input `index` of a product that its output takes over."""
    if rank < 2 or index > 1:
        return None
    if node.op_type == "Gemm":
        turned = node.attributes.get_int("transB" if index else "transA", 0) == 1
        return index ^ turned
    return rank - 1 if index else rank - 2
