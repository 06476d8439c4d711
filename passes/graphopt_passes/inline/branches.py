"""If with a constant condition, or with two equal branches."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import constant_tensor, is_standard
from graphopt.ir.facts import Facts
from graphopt.ir.structure import graph_key
from graphopt_passes.inline.splice import Part, Splicer, emptied


def chosen_branch(node: ir.Node) -> ir.Graph | None:
    """The branch that the constant condition of the If `node` takes; None if it is not constant."""
    condition = constant_truth(node.inputs[0]) if node.inputs else None
    if condition is None:
        return None
    return _branch(node, "then_branch" if condition else "else_branch")


def same_branch(node: ir.Node) -> ir.Graph | None:
    """A branch of the If `node` if both are the same; they may draw at random, each would once."""
    one, other = _branch(node, "then_branch"), _branch(node, "else_branch")
    if one is None or other is None or len(one) != len(other):
        return None
    if any(a.op_type != b.op_type for a, b in zip(one, other, strict=True)):
        return None
    key = graph_key(one)
    return one if key is not None and key == graph_key(other) else None


def constant_truth(value: ir.Value | None) -> bool | None:
    """The one element of the constant `value`; None if that is not known."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype != ir.DataType.BOOL:
        return None
    return bool(tensor.numpy().reshape(-1)[0])


def lift_branch(node: ir.Node, branch: ir.Graph, splicer: Splicer, facts: Facts) -> list[ir.Node]:
    """Puts what is in `branch` in place of the If `node`; the nodes that are new there.

    Raises:
        DeclinedError: if an output of the graph could not be given any more.
    """
    splicer.require_identity(node)
    for old, new in zip(node.outputs, branch.outputs, strict=False):
        if facts.rank(new):
            _make_scalar(old, splicer)
    splicer.release(node)
    constants = splicer.constants(branch, node)
    results = [constants.get(value, value) for value in branch.outputs]
    return splicer.splice(node, [Part(emptied(branch))], results)


def _make_scalar(value: ir.Value, splicer: Splicer) -> None:
    """Lets Range nodes take `value` without its dimensions, which are 1.

    Range takes scalars only. Runtimes are not strict about that, but onnx's checker is, once no If
    hides the shape.
    """
    for user, index in value.uses():
        if is_standard(user, "Range") and isinstance(user.graph, ir.Graph):
            squeeze = ir.Node("", "Squeeze", [value], name="")
            squeeze.outputs[0].name = splicer.fresh(f"{value.name}/scalar")
            user.graph.insert_before(user, squeeze)
            user.replace_input_with(index, squeeze.outputs[0])


def _branch(node: ir.Node, name: str) -> ir.Graph | None:
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.GRAPH:
        return None
    return attribute.as_graph()
