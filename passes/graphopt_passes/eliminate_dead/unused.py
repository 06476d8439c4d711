"""What nothing uses."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from graphopt.ir import drop_unused_initializer, subgraphs, walk
from graphopt.ir.query import DEFAULT_DOMAINS


class Functions:
    """The functions of a model by who calls them."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._keys = {_normal(key): key for key in model.functions}
        self._pure: dict[ir.OperatorIdentifier, bool] = {}
        self._defined: dict[tuple[str, str], bool] = {}

    def called_by(self, node: ir.Node) -> ir.OperatorIdentifier | None:
        """The key of the function that `node` calls, if it calls one."""
        return self._keys.get(_normal(node.op_identifier())) if self._keys else None

    def is_pure(self, node: ir.Node) -> bool:
        """Whether `node` and all that it contains do nothing but compute outputs."""
        key = self.called_by(node)
        if key is not None:
            if key not in self._pure:
                self._pure[key] = all(self.is_pure(inner) for inner in self._model.functions[key])
            return self._pure[key]
        operator = (node.op_type, node.domain)
        if operator not in self._defined:
            self._defined[operator] = onnx.defs.has(*operator)
        if not self._defined[operator]:
            return False
        if not node.attributes:
            return True
        return all(self.is_pure(inner) for graph in subgraphs(node) for inner in graph)


def _normal(key: ir.OperatorIdentifier) -> ir.OperatorIdentifier:
    domain, name, overload = key
    return ("" if domain in DEFAULT_DOMAINS else domain, name, overload)


class Sweep:
    """Removes nodes whose outputs nothing uses, graph by graph, each from its end."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.count = 0
        """How many nodes were removed; those with subgraphs count with what is in them."""
        self.foreign: list[ir.Node] = []
        """The unused nodes that stay because their domain is unknown."""
        self.graphs: list[ir.Graph] = []
        """The graphs that were gone through, subgraphs of what stays included."""

    def remove_unused_nodes(self, graph: ir.Graph | ir.Function) -> None:
        if isinstance(graph, ir.Graph):
            self.graphs.append(graph)
        removed: list[ir.Node] = []
        for node in reversed(graph):
            used = _is_used(node)
            if not used and node.outputs and self._functions.is_pure(node):
                self.count += _detach(node)
                removed.append(node)
                continue
            if not used:
                self.foreign.append(node)
            if node.attributes:
                for inner in subgraphs(node):
                    self.remove_unused_nodes(inner)
        if removed:
            graph.remove(removed)


def _is_used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)


def _detach(node: ir.Node) -> int:
    """Lets go of what `node` and the nodes inside of it use; how many nodes those are."""
    count = 1
    for index, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(index, None)
    if node.attributes:
        for graph in subgraphs(node):
            count += sum(_detach(inner) for inner in graph)
    return count


def remove_unused_initializers(graphs: Sequence[ir.Graph]) -> int:
    """Removes the initializers that nothing uses and that are no inputs or outputs; how many."""
    count = 0
    for graph in graphs:
        for value in list(graph.initializers.values()):
            drop_unused_initializer(value)
            count += not value.is_initializer()
    return count


def remove_unused_functions(model: ir.Model, functions: Functions) -> int:
    """Removes the functions that the graph does not call, not even through others; how many."""
    reached: set[ir.OperatorIdentifier] = set()
    pending: list[ir.Graph | ir.Function] = [model.graph]
    while pending and model.functions:
        for node in walk(pending.pop()):
            key = functions.called_by(node)
            if key is not None and key not in reached:
                reached.add(key)
                pending.append(model.functions[key])
    unused = [key for key in model.functions if key not in reached]
    for key in unused:
        del model.functions[key]
    return len(unused)
