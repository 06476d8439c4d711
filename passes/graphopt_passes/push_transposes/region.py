"""The part of a graph around a Transpose that could do without it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.rewriting import Rewriter
from graphopt_passes.push_transposes.cut import SINK, SOURCE, UNLIMITED, Network
from graphopt_passes.push_transposes.layouts import Layout, layout_above, layout_below
from graphopt_passes.push_transposes.operators import MOVABLE
from graphopt_passes.push_transposes.perms import (
    Perm,
    composed,
    inverse,
    is_identity,
    moves_only_ones,
)

MAX_NODES = 64
# What a Transpose costs; one that keeps the order of the elements costs next to nothing to run.
COST, COST_OF_ONES = 3, 2


def perm_of(node: ir.Node, at: Rewriter) -> Perm | None:
    perm = node.attributes.get("perm")
    if perm is not None:
        return tuple(perm.as_ints())
    rank = at.rank(node.inputs[0])
    return None if rank is None else tuple(reversed(range(rank)))


@dataclass
class Region:
    """Values that are Transpose(v, perm) of a v, and the nodes among them.

    Each node may use and give the values, or these v.
    """

    at: Rewriter
    graph: ir.Graph | ir.Function
    perms: dict[ir.Value, Perm] = field(default_factory=dict)
    nodes: dict[ir.Node, Layout] = field(default_factory=dict)
    ends: dict[ir.Node, Perm | None] = field(default_factory=dict)
    """Nodes that take a value of the region and give none: a Transpose, with its perm; a Shape."""

    def grow(self, value: ir.Value, perm: Perm) -> None:
        """Takes in what is connected with `value`, downwards and upwards."""
        pending = deque([value])
        self.perms[value] = perm
        while pending:
            value = pending.popleft()
            found: list[tuple[ir.Node, Layout]] = []
            producer = value.producer()
            if producer is not None and self._is_open(producer):
                above = layout_above(producer, self.perms[value], self.at)
                found.extend([] if above is None else [(producer, above)])
            uses = value.uses() if len(value.uses()) <= MAX_NODES else ()
            for use in uses:
                if self._is_end(use.node, use.idx):
                    shape = use.node.op_type == "Shape"
                    self.ends[use.node] = None if shape else perm_of(use.node, self.at)
                elif self._is_open(use.node):
                    below = layout_below(use.node, use.idx, self.perms[value], self.at)
                    found.extend([] if below is None else [(use.node, below)])
            for node, layout in found:
                if len(self.nodes) < MAX_NODES and node not in self.nodes:
                    pending.extend(self._take_in(node, layout))

    def _is_open(self, node: ir.Node) -> bool:
        known = node.op_type in MOVABLE and node.graph is self.graph
        return known and node not in self.nodes and self.at.is_op(node, node.op_type)

    def _is_end(self, node: ir.Node, index: int) -> bool:
        if index != 0 or node.graph is not self.graph:
            return False
        return self.at.is_op(node, "Shape", "Transpose")

    def _take_in(self, node: ir.Node, layout: Layout) -> list[ir.Value]:
        """Adds `node` unless it wants a value in two layouts; the values that are new."""
        wanted = {
            value: perm
            for value, perm in zip(node.inputs, layout.inputs, strict=True)
            if value is not None and perm is not None and not self.at.is_constant(value)
        }
        wanted.update(zip(node.outputs, layout.outputs, strict=True))
        if any(self.perms.get(value, perm) != perm for value, perm in wanted.items()):
            return []
        self.nodes[node] = layout
        new = [value for value in wanted if value not in self.perms]
        self.perms.update(wanted)
        return new

    # What it costs

    def best(self) -> set[ir.Node] | None:
        """The nodes that are to do without; None if no choice saves a Transpose.

        The cheapest choice is a minimum cut: each vertex on the side of SOURCE does without, and an
        edge that is cut stands for a Transpose between what does and what does not.
        """
        network = Network()
        self._drop_ends_inside()
        vertices = {node: network.vertex() for node in (*self.nodes, *self.ends)}
        now = 0
        for node, perm in self.ends.items():
            if perm is None:
                continue
            given = self.perms[node.inputs[0]]  # type: ignore[index]
            dims = self.at.dims(node.outputs[0])
            as_is = cost(perm, dims)
            now += as_is
            network.edge(SOURCE, vertices[node], as_is)
            network.edge(vertices[node], SINK, cost(composed(given, perm), dims))
        for value in self.perms:
            now += self._add_value(value, network, vertices)
        least, chosen = network.cut()
        if least >= now:
            return None
        return {node for node, vertex in vertices.items() if vertex in chosen}

    def _drop_ends_inside(self) -> None:
        """A Transpose that leads into the region again is a beginning of it, and no end."""
        for node in list(self.ends):
            inside = node.op_type == "Transpose" and node.outputs[0] in self.perms
            if inside or (node.op_type == "Transpose" and self.ends[node] is None):
                del self.ends[node]

    def _add_value(self, value: ir.Value, network: Network, vertices: dict[ir.Node, int]) -> int:
        """Adds what it costs to have `value` in both layouts; what it costs now."""
        perm, dims = self.perms[value], self.at.dims(value)
        moved = None if dims is None else tuple(dims[place] for place in inverse(perm))
        users = [
            vertices.get(use.node, SINK) if self._is_operand(use.node, use.idx) else SINK
            for use in value.uses()
        ]
        if value.is_graph_output():
            users.append(SINK)
        as_is, without = _joined(list(dict.fromkeys(users)), network)
        producer = value.producer()
        if producer is not None and producer in self.nodes:
            network.edge(vertices[producer], as_is, cost(perm, dims))
            network.edge(without, vertices[producer], cost(inverse(perm), moved))
            return 0
        first = self.beginning(value)
        if first is None:
            network.edge(without, SINK, cost(inverse(perm), moved))
            return 0
        now = cost(first, dims)
        network.edge(SOURCE, as_is, now)
        network.edge(without, SINK, cost(composed(first, inverse(perm)), moved))
        return now

    def _is_operand(self, node: ir.Node, index: int) -> bool:
        """Whether input `index` of `node` is one that has a layout, not a parameter."""
        layout = self.nodes.get(node)
        return layout is None or layout.inputs[index] is not None

    def beginning(self, value: ir.Value) -> Perm | None:
        """The perm of the Transpose that makes `value`, if one does."""
        node = value.producer()
        if node is None or node.graph is not self.graph or not self.at.is_op(node, "Transpose"):
            return None
        return perm_of(node, self.at)


def _joined(users: list[int], network: Network) -> tuple[int, int]:
    """A vertex for "some user needs the value as it is", and one for "some user does without"."""
    if len(users) == 1:
        return users[0], users[0]
    as_is, without = network.vertex(), network.vertex()
    for user in users:
        network.edge(as_is, user, UNLIMITED)
        if user != SINK:
            network.edge(user, without, UNLIMITED)
    return as_is, without


def cost(perm: Perm, dims: Dims | None) -> int:
    """That of a Transpose by `perm` whose result is of `dims`."""
    if is_identity(perm):
        return 0
    return COST_OF_ONES if moves_only_ones(perm, dims) else COST
