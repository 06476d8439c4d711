"""What lies between some values and the node that a rewrite starts at."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting.rule import DeclinedError


def require_private(root: ir.Node, leaves: Sequence[ir.Value]) -> None:
    """Raises DeclinedError if more than `root` can be seen of what computes it from `leaves`.

    That is if a value in between is used by other nodes, is a graph's output, or is in another
    graph. Every path upwards from `root` must end at one of `leaves` or at a constant.
    """
    ends, region = set(leaves), [root]
    inside = {root}
    for node in region:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if value in ends or producer is None or constant_tensor(value) is not None:
                continue
            if producer not in inside:
                region.append(producer)
                inside.add(producer)
    for node in region[1:]:
        if node.graph is not root.graph:
            raise DeclinedError(f"'{node.outputs[0].name}' is computed in another graph")
        for value in node.outputs:
            if value.is_graph_output():
                raise DeclinedError(f"'{value.name}' in the midst of it is an output of the graph")
            if any(use.node not in inside for use in value.uses()):
                raise DeclinedError(f"'{value.name}' in the midst of it is used elsewhere too")
