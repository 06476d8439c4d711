"""What computes some values and serves nothing else, and what in it depends on another value."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import (
    constant_array,
    constant_tensor,
    default_opset,
    is_standard,
    label,
    reads,
    subgraphs,
    walk,
)
from graphopt.ir.facts import Facts
from graphopt_passes.eliminate_dead.unused import Functions

LAYERS = (
    *("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv"),
    *("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "Einsum", "Attention"),
    *("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "GRU", "LSTM", "RNN"),
)
"""One of these makes a branch a block. Without, it is a formula, such as the inner part of a GELU:
x + 0.044715 x^3."""


@dataclass(frozen=True)
class Region:
    """Nodes that serve some values alone, in the order of the graph.

    Attributes:
        entries: what they read from outside and varies; a value whose producer is no part of the
            region is its own entry.
    """

    nodes: tuple[ir.Node, ...]
    entries: tuple[ir.Value, ...]


class Regions:
    """Regions of the main graph of a model."""

    def __init__(self, model: ir.Model, facts: Facts, functions: Functions) -> None:
        self._model = model
        self._facts = facts
        self._functions = functions
        self._opset = default_opset(model)
        self._nodes = list(model.graph)
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self._fixed = _fixed(self._nodes)

    def is_fixed(self, value: ir.Value) -> bool:
        """Whether `value` is a constant, or computed from nothing but constants."""
        return value in self._fixed or constant_tensor(value) is not None

    def is_layer(self, node: ir.Node) -> bool:
        """Whether `node` is a layer, or a function that holds one."""
        called = self._functions.called_by(node)
        if called is None:
            return is_standard(node, *LAYERS)
        return any(self.is_layer(inner) for inner in walk(self._model.functions[called]))

    def is_read_twice(self, value: ir.Value) -> bool:
        """Whether `value`, or what it is a copy of, has more than one reader."""
        return any(len(copy.uses()) > 1 for copy in self._originals(value))

    def grow(self, values: Sequence[ir.Value], readers: Collection[ir.Node]) -> Region:
        """The nodes that compute `values`, which `readers` read, and nothing else."""
        inside: set[ir.Node] = set()
        entries: dict[ir.Value, None] = {}
        # The last node first: when one is looked at, all its readers inside are known.
        queue: list[int] = []
        wanted: dict[int, list[ir.Value]] = {}

        def want(value: ir.Value) -> None:
            producer = value.producer()
            if producer is None or producer not in self._place:
                if not self.is_fixed(value):
                    entries[value] = None
                return
            place = self._place[producer]
            if place not in wanted:
                heapq.heappush(queue, -place)
            wanted.setdefault(place, []).append(value)

        for value in values:
            want(value)
        while queue:
            place = -heapq.heappop(queue)
            node = self._nodes[place]
            seen = [self._seen_by(v, inside, readers if v in values else ()) for v in node.outputs]
            if not any(seen):
                inside.add(node)
                for read in reads(node):
                    want(read)
            else:
                entries.update((v, None) for v in wanted[place] if not self.is_fixed(v))
        ordered = sorted(inside, key=self._place.__getitem__)
        return Region(tuple(ordered), tuple(entries))

    def dependent(self, region: Region, source: ir.Value) -> set[ir.Node]:
        """The nodes of `region` that depend on `source`, or on what it is a copy of."""
        (*_, original) = self._originals(source)
        reached: set[ir.Value] = set()
        found: set[ir.Node] = set()
        for node in region.nodes:
            for value in reads(node):
                if value in reached or original in self._originals(value):
                    found.add(node)
                    reached.update(node.outputs)
        return found

    def seen_between(self, region: Region, source: ir.Value) -> str | None:
        """What keeps `region` from reaching up to `source`: who else sees a value in between.

        None if no layer in it or in between depends on `source`.
        """
        (*_, original) = self._originals(source)
        for entry in region.entries:
            between = self._between(original, entry)
            seen = self._seen_by(entry, region.nodes, ())
            if between and seen and any(map(self.is_layer, (*between, *region.nodes))):
                return f"'{entry.name}' in its branch {seen}"
        return None

    def _between(self, source: ir.Value, value: ir.Value) -> set[ir.Node]:
        """The nodes behind `source` that `value` depends on; none if it does not need `source`."""
        producer = source.producer()
        first = -1 if producer is None else self._place.get(producer, -1)
        found: set[ir.Node] = set()
        leads = False
        stack = [value]
        while stack:
            current = stack.pop()
            leads = leads or current is source
            node = current.producer()
            if node is not None and node not in found and self._place.get(node, -1) > first:
                found.add(node)
                stack.extend(reads(node))
        return found if leads else set()

    def _seen_by(
        self, value: ir.Value, inside: Collection[ir.Node], readers: Collection[ir.Node]
    ) -> str | None:
        """Who sees `value` besides the nodes `inside` and `readers`, as the end of a sentence."""
        if value.is_graph_output():
            return "is an output of the graph"
        for use in value.uses():
            if use.node in inside or use.node in readers:
                continue
            if use.node not in self._place:
                return f"is read in a subgraph, by '{label(use.node)}'"
            return f"is read by '{label(use.node)}' too"
        return None

    def _originals(self, value: ir.Value) -> Iterator[ir.Value]:
        """`value`, what it is a copy of, and so on. A shift by a constant counts as a copy: it is
        what a dropped block has left."""
        current: ir.Value | None = value
        while current is not None:
            yield current
            current = self._original(current)

    def _original(self, value: ir.Value) -> ir.Value | None:
        """What `value` is a copy of."""
        node = value.producer()
        if node is None or not node.inputs:
            return None
        if is_standard(node, "Add"):
            varying = [v for v in node.inputs if v is not None and not self.is_fixed(v)]
            return varying[0] if len(varying) == 1 else None
        return node.inputs[0] if self._copies(node, value) else None

    def _copies(self, node: ir.Node, output: ir.Value) -> bool:
        if is_standard(node, "Identity"):
            return True
        if is_standard(node, "Cast"):
            source = self._facts.dtype(node.inputs[0])
            return source is not None and source == self._facts.dtype(output)
        if not is_standard(node, "Dropout") or self._opset < 7 or output is not node.outputs[0]:
            return False
        # Since opset 12 an input says whether to drop; without, nothing is dropped.
        training = node.inputs[2] if len(node.inputs) > 2 else None
        array = constant_array(training)
        return training is None or (array is not None and not array.any())


def _fixed(nodes: Sequence[ir.Node]) -> set[ir.Value]:
    """What is computed from nothing but constants."""
    fixed: set[ir.Value] = set()
    for node in nodes:
        given = [value for value in node.inputs if value is not None]
        known = all(value in fixed or constant_tensor(value) is not None for value in given)
        if (
            known
            and (given or is_standard(node, "Constant"))
            and next(subgraphs(node), None) is None
        ):
            fixed.update(node.outputs)
    return fixed
