"""Where channels end up that are only moved, and scaled as a whole, on their way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import constant_array, is_standard
from graphopt_passes.prune_channels.labelling import Labelling

Ids: TypeAlias = "NDArray[np.int64]"
"""For each element of a tensor, which channel it is of."""


@dataclass(frozen=True)
class End:
    """What reads channels and does not only move them.

    Attributes:
        node: None if the graph itself gives them away.
        index: of the node's input.
        ids: [shape of that input].
    """

    node: ir.Node | None
    index: int
    ids: Ids


def follow(found: Labelling, value: ir.Value, ids: Ids) -> list[End]:
    """All ends of the channels that `value` holds, in the shape that the analysis gives it."""
    ends: list[End] = []
    ahead = [(value, ids)]
    while ahead:
        value, ids = ahead.pop()
        if value.is_graph_output():
            ends.append(End(None, 0, ids))
        for use in value.uses():
            moved = _moved(found, use.node, use.idx, ids)
            if moved is None:
                ends.append(End(use.node, use.idx, ids))
            else:
                ahead += moved
    return ends


def _moved(
    found: Labelling, node: ir.Node, index: int, ids: Ids
) -> list[tuple[ir.Value, Ids]] | None:
    """The outputs of a node that only moves and scales its input, or None of another."""
    output = node.outputs[0]
    if is_standard(node, "Mul", "Div") and _is_scaled(node, index):
        return [(output, ids)]
    if index != 0 or any(value.name not in found.labels for value in node.outputs):
        return None
    shapes = [tuple(found.facts.shapes[str(value.name)]) for value in node.outputs]
    if is_standard(node, "Identity"):
        return [(output, ids)]
    if is_standard(node, "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return [(output, ids.reshape(shapes[0]))]
    if is_standard(node, "Transpose"):
        return [(output, ids.transpose(node.attributes.get_ints("perm", None)))]
    if is_standard(node, "Split"):
        axis = node.attributes.get_int("axis", 0)
        bounds = np.cumsum([shape[axis] for shape in shapes])[:-1]
        return list(zip(node.outputs, np.split(ids, bounds, axis), strict=True))
    if is_standard(node, "Gather"):
        indices = constant_array(node.inputs[1])
        axis = node.attributes.get_int("axis", 0)
        return None if indices is None else [(output, np.take(ids, indices, axis))]
    return None


def _is_scaled(node: ir.Node, index: int) -> bool:
    """Whether input `index` of a Mul or Div is scaled by one number, and not to another rank."""
    if len(node.inputs) != 2 or (node.op_type == "Div" and index == 1):
        return False
    factor = constant_array(node.inputs[1 - index])
    return factor is not None and factor.size == 1 and factor.ndim <= 1
