"""What the rules share: the link ahead of a node, and what nodes say in attributes or inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt.rewriting.rewriter import FEW_USERS


def ahead(node: ir.Node, at: Rewriter, *op_types: str) -> ir.Node | None:
    """The node of `op_types` that makes input 0 of `node` and will go if `node` does without it.

    It is in the same graph, and what uses its output, which is no graph output, is of the operator
    of `node` too, and so can do without it just as well.
    """
    value = node.inputs[0] if node.inputs else None
    found = at.producer(value, *op_types)
    if found is None or value is None or found.graph is not node.graph or not at.is_lone(found):
        return None
    users = value.uses()
    if value.is_graph_output() or len(users) > FEW_USERS:
        return None
    alike = all(u.idx == 0 and u.node.graph is node.graph and at.is_op(u.node, node.op_type)
                for u in users)  # fmt: skip
    return found if alike else None


def bypass(node: ir.Node, at: Rewriter, value: ir.Value | None) -> bool:
    """Lets the users of `node` use the equal `value`; an Identity remains if they cannot."""
    if value is None:
        return False
    if not at.replace(node.outputs[0], value):
        at.become(node, "Identity", [value])
    return True


def vector(numbers: Sequence[int], what: str, before: ir.Node, at: Rewriter) -> ir.Value:
    """A new constant of int64, called after the output of `before`."""
    data = np.array(numbers, np.int64)
    return at.constant(data, f"{before.outputs[0].name}_{what}", before)


def same_axis(node: ir.Node, other: ir.Node, default: int, rank: int | None) -> bool:
    """Whether attribute `axis` of both names the same axis of a value of `rank`."""
    one: int = node.attributes.get_int("axis", default)
    two: int = other.attributes.get_int("axis", default)
    if one == two:
        return True
    return rank is not None and rank > 0 and one % rank == two % rank


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
