"""What nothing uses."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.ir import drop_unused_initializer, subgraphs
from graphopt.ir.query import DEFAULT_DOMAINS


class Functions:
    """The functions of a model by who calls them."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._keys = {_normal(key): key for key in model.functions}
        self._pure: dict[ir.OperatorIdentifier, bool] = {}

    def called_by(self, node: ir.Node) -> ir.OperatorIdentifier | None:
        """The key of the function that `node` calls, if it calls one."""
        return self._keys.get(_normal(node.op_identifier()))

    def is_pure(self, node: ir.Node) -> bool:
        """Whether `node` and all that it contains do nothing but compute outputs."""
        key = self.called_by(node)
        if key is not None:
            if key not in self._pure:
                self._pure[key] = all(self.is_pure(inner) for inner in self._model.functions[key])
            return self._pure[key]
        if not onnx.defs.has(node.op_type, node.domain):
            return False
        return all(self.is_pure(inner) for graph in subgraphs(node) for inner in graph)


def _normal(key: ir.OperatorIdentifier) -> ir.OperatorIdentifier:
    domain, name, overload = key
    return ("" if domain in DEFAULT_DOMAINS else domain, name, overload)


def remove_unused_nodes(
    graph: ir.Graph | ir.Function, functions: Functions, foreign: list[ir.Node]
) -> int:
    """Removes the nodes of `graph` and its subgraphs whose outputs nothing uses; how many.

    Nodes with subgraphs count with what is in them.

    Args:
        foreign: takes the unused nodes that stay because their domain is unknown.
    """
    removed: list[ir.Node] = []
    count = 0
    for node in reversed(graph):
        used = any(value.uses() or value.is_graph_output() for value in node.outputs)
        if not used and node.outputs and functions.is_pure(node):
            count += _detach(node)
            removed.append(node)
            continue
        if not used:
            foreign.append(node)
        for inner in subgraphs(node):
            count += remove_unused_nodes(inner, functions, foreign)
    graph.remove(removed)
    return count


def _detach(node: ir.Node) -> int:
    """Lets go of what `node` and the nodes inside of it use; how many nodes those are."""
    count = 1
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)
    for graph in subgraphs(node):
        count += sum(_detach(inner) for inner in graph)
    return count


def remove_unused_initializers(model: ir.Model) -> int:
    """Removes the initializers that nothing uses and that are no inputs or outputs; how many."""
    count = 0
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            drop_unused_initializer(value)
            count += not value.is_initializer()
    return count


def remove_unused_functions(model: ir.Model, functions: Functions) -> int:
    """Removes the functions that the graph does not call, not even through others; how many."""
    reached: set[ir.OperatorIdentifier] = set()
    pending: list[ir.Graph | ir.Function] = [model.graph]
    while pending and model.functions:
        for node in ir.traversal.RecursiveGraphIterator(pending.pop()):
            key = functions.called_by(node)
            if key is not None and key not in reached:
                reached.add(key)
                pending.append(model.functions[key])
    unused = [key for key in model.functions if key not in reached]
    for key in unused:
        del model.functions[key]
    return len(unused)
