"""Putting nodes in place of one, under names that are free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import (
    add_constant,
    add_initializer,
    default_opset,
    remove_node,
    replaced_operators,
    subgraphs,
    take_over,
)
from graphopt.rewriting import DeclinedError

# Before, Identity was for tensors only.
_IDENTITY_OF_ALL = 16


@dataclass(frozen=True)
class Part:
    """Nodes that are in no graph yet; their names, and those of what they make, get additions."""

    nodes: Sequence[ir.Node]
    prefix: str = ""
    suffix: str = ""

    def named(self, name: str | None) -> str:
        return f"{self.prefix}{name or ''}{self.suffix}"


class Splicer:
    """Puts nodes in place of one.

    It knows how often each name is taken, so that what leaves a branch for the graph around it may
    keep its names unless something else has them.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._has_identity = "Identity" not in replaced_operators(model)
        self._opset = default_opset(model)
        self._taken: Counter[str] | None = None
        self._taken_by_nodes: Counter[str] = Counter()

    def require_identity(self, node: ir.Node) -> None:
        """Raises DeclinedError if an output of `node` can be handed on to the caller by no node."""
        for value in node.outputs:
            tensor = isinstance(value.type, ir.TensorType) or self._opset >= _IDENTITY_OF_ALL
            if value.is_graph_output() and not (self._has_identity and tensor):
                raise DeclinedError(f"no Identity could give the output '{value.name}'")

    def fresh(self, base: str) -> str:
        """A name for a value that no other has."""
        return _fresh(self._names(), base)

    def _names(self) -> Counter[str]:
        if self._taken is None:
            self._taken = Counter()
            roots = [self.model.graph, *(f.graph for f in self.model.functions.values())]
            for root in roots:
                self._count(root, 1)
        return self._taken

    def _count(self, graph: ir.Graph, times: int) -> None:
        """Counts the names in `graph` and its subgraphs `times` times more."""
        taken = self._names()
        for value in (*graph.inputs, *graph.initializers.values()):
            taken[value.name or ""] += times
        for node in graph:
            self._count_node(node, times)

    def _count_node(self, node: ir.Node, times: int) -> None:
        taken = self._names()
        self._taken_by_nodes[node.name or ""] += times
        for value in node.outputs:
            taken[value.name or ""] += times
        if node.attributes:
            for graph in subgraphs(node):
                self._count(graph, times)

    def release(self, node: ir.Node) -> None:
        """Gives the names of `node` and of all inside of it free; `splice` takes them again."""
        self._count_node(node, -1)

    def constants(self, graph: ir.Graph, node: ir.Node) -> dict[ir.Value, ir.Value]:
        """The initializers of `graph`, in a subgraph of `node`, by constants of the graph of `node`
        that have taken the place of them."""
        moved = {}
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None:
                continue
            new = add_constant(self.model, self.fresh(value.name or "constant"), tensor, node)
            new.metadata_props.update(value.metadata_props)
            new.meta.update(value.meta)
            new.doc_string = value.doc_string
            for user, index in value.uses():
                user.replace_input_with(index, new)
            moved[value] = new
        return moved

    def splice(
        self, node: ir.Node, parts: Sequence[Part], results: Sequence[ir.Value | None]
    ) -> list[ir.Node]:
        """Puts `parts` in place of `node`, and `results` in place of its outputs (None for one that
        nothing uses); all nodes that are new then.

        A result that one of the new nodes makes gets the name of the output. All other names stay
        but for their additions, as far as they are free.
        """
        graph = node.graph
        if graph is None:
            raise ValueError(f"node '{node.name}' is in no graph")
        nodes = [inner for part in parts for inner in part.nodes]
        made = {value for inner in nodes for value in inner.outputs}
        pairs = list(zip(node.outputs, results, strict=False))
        heirs: dict[ir.Value, ir.Value] = {}
        for old, new in pairs:
            if new is not None and old.name and new in made:
                heirs.setdefault(new, old)
        for part in parts:
            for inner in part.nodes:
                self._rename(inner, part, heirs)
        graph.insert_before(node, nodes)
        for old, new in pairs:
            if new is None:
                continue
            if heirs.get(new) is old:
                _inherit(old, new)
            elif old.is_graph_output():
                nodes.append(self._identity(old, new, node))
            else:
                old.replace_all_uses_with(new)
        remove_node(node)
        return nodes

    def _identity(self, old: ir.Value, new: ir.Value, before: ir.Node) -> ir.Node:
        """An Identity ahead of `before` that makes the graph output `old` from `new`."""
        node = ir.Node("", "Identity", [new], name=_fresh(self._taken_by_nodes, old.name or ""))
        node.outputs[0].name = ""
        if isinstance(before.graph, ir.Graph):
            before.graph.insert_before(before, node)
        take_over(old, node.outputs[0])
        self._names()[node.outputs[0].name or ""] += 1
        return node

    def _rename(self, node: ir.Node, part: Part, heirs: Mapping[ir.Value, ir.Value]) -> None:
        taken = self._names()
        if node.name:
            node.name = _fresh(self._taken_by_nodes, part.named(node.name))
        for value in node.outputs:
            if value in heirs:
                taken[heirs[value].name or ""] += 1
            elif value.name:
                _set_name(value, _fresh(taken, part.named(value.name)))
        for graph in subgraphs(node):
            for value in graph.inputs:
                value.name = _fresh(taken, part.named(value.name))
            for value in list(graph.initializers.values()):
                _rename_initializer(graph, value, _fresh(taken, part.named(value.name)))
            for inner in graph:
                self._rename(inner, part, {})


def _fresh(taken: Counter[str], base: str) -> str:
    name, number = base, 0
    while taken[name] > 0:
        number += 1
        name = f"{base}_{number}"
    taken[name] += 1
    return name


def _set_name(value: ir.Value, name: str) -> None:
    if value.name != name:
        value.const_value = None  # or its tensor, which copies of the model share, is renamed
        value.name = name


def _rename_initializer(graph: ir.Graph, value: ir.Value, name: str) -> None:
    if value.name == name or value.const_value is None or value.is_graph_input():
        return
    new = add_initializer(graph, name, value.const_value)
    new.metadata_props.update(value.metadata_props)
    new.meta.update(value.meta)
    new.doc_string = value.doc_string
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    del graph.initializers[value.name or ""]


def _inherit(old: ir.Value, new: ir.Value) -> None:
    """Makes `new`, which is only now in the graph, the value `old` of whoever uses that."""
    name = old.name
    new.const_value = None
    new.meta.update(old.meta)
    if old.is_graph_output():
        take_over(old, new)
        return
    new.type = new.type or old.type
    new.shape = old.shape if new.shape is None else new.shape
    new.metadata_props.update(old.metadata_props)
    new.doc_string = new.doc_string or old.doc_string
    old.replace_all_uses_with(new)
    old.name = None
    new.name = name


def emptied(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of `graph`, taken out of it; nothing is its input, output or initializer then."""
    nodes = list(graph)
    graph.remove(nodes)
    graph.outputs.clear()
    graph.inputs.clear()
    graph.initializers.clear()
    return nodes
