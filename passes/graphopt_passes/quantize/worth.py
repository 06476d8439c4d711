"""Layers that are faster in float, with what is around them, by the costs of the target.

Each node is computed in float or in integers, takes its time there, and each tensor between the two
sides takes time to convert. The fastest choice is the cheapest cut of a network (Greig, Porteous
and Seheult 1989): float nodes on the source's side, integer ones on the sink's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import constant_tensor, forget_shapes, infer_shapes, is_standard, static_shape
from graphopt.targets.quantization import QuantizationRules
from graphopt.targets.quantization.costs import Costs
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.cut import SINK, SOURCE, UNBREAKABLE, Network
from graphopt_passes.quantize.outlets import outlet
from graphopt_passes.quantize.placement import place
from graphopt_passes.quantize.timing import (
    BYTES,
    Shapes,
    Times,
    boundary_time,
    layer_times,
    plain_times,
    spilled_times,
    weight_times,
)

SLOWER = "with what is around it, it is faster in float"
WORTHWHILE = 0.05
"""A model stays float that integers would make faster by less than that part."""
PIXELS, OTHERS = 224, 128
"""How long free axes of images, and of other inputs, are taken to be."""


def slower_layers(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: Collection[ir.Node],
) -> list[Candidate]:
    """Those of `candidates` that had better stay float, by the costs in `rules`."""
    if rules.costs is None or not candidates:
        return []
    times = _Times(model, candidates, rules, rules.costs, excluded)
    best = times.fastest()
    integer = [candidate for candidate in candidates if candidate.node in best]
    everywhere, chosen, nowhere = (
        times.total(times.placed(choice)) for choice in (candidates, integer, [])
    )
    if min(everywhere, chosen) >= (1 - WORTHWHILE) * nowhere:
        return candidates if nowhere else []  # of nodes whose shapes are not known, it is 0
    if everywhere <= chosen:
        return []
    return [candidate for candidate in candidates if candidate.node not in best]


class _Times:
    """What each choice of integer nodes takes."""

    def __init__(
        self,
        model: ir.Model,
        candidates: list[Candidate],
        rules: QuantizationRules,
        costs: Costs,
        excluded: Collection[ir.Node],
    ) -> None:
        self._model = model
        self._rules = rules
        self._costs = costs
        self._excluded = excluded
        self._candidates = {candidate.node: candidate for candidate in candidates}
        self._shapes = shapes_of(model)
        self._followers = place(model, candidates, rules, excluded).integer
        self._leaders = dict(self._fused())
        self._nodes = self._times()

    def _fused(self) -> Iterable[tuple[ir.Node, ir.Node]]:
        """Activations that are part of the kernel ahead of them, and that kernel's node."""
        for node in (*self._candidates, *self._followers):
            end = outlet(node, self._rules).producer()
            if end is not None and end is not node:
                yield end, node

    def _times(self) -> dict[ir.Node, Times]:
        """The times of the nodes that may be on either side."""
        moving = (*self._rules.movers, *self._rules.selectors, *self._rules.joins)
        shapes, costs = self._shapes, self._costs
        found: dict[ir.Node, Times] = {}
        size = sum(candidate.tensor.size for candidate in self._candidates.values())
        loads = size * BYTES[0] > costs.cached_bytes
        for node in self._model.graph:
            candidate = self._candidates.get(node)
            if candidate is not None:
                found[node] = layer_times(candidate, shapes, costs)
                found[node] += spilled_times(node, shapes, costs)
                found[node] += weight_times(candidate, costs) if loads else 0
            elif node in self._leaders:
                found[node] = np.zeros(2)
            elif node in self._followers or (
                is_standard(node, *moving) and node not in self._excluded
            ):
                found[node] = plain_times(node, shapes, costs) + spilled_times(node, shapes, costs)
        return found

    def fastest(self) -> set[ir.Node]:
        """The integer nodes of the fastest choice, if each could be chosen by itself."""
        network = Network()
        vertices = {node: network.vertex() for node in self._nodes}
        for node, (floating, integer) in self._nodes.items():
            network.edge(SOURCE, vertices[node], round(integer))
            network.edge(vertices[node], SINK, round(floating))
            if node in self._leaders:
                leader = vertices[self._leaders[node]]
                network.edge(leader, vertices[node], UNBREAKABLE)
                network.edge(vertices[node], leader, UNBREAKABLE)
        for value in self._tensors():
            made = vertices.get(value.producer(), SOURCE)  # type: ignore[arg-type]
            readers = [vertices.get(use.node, SOURCE) for use in value.uses()]
            if value.is_graph_output():
                readers.append(SOURCE)
            self._part(network, value, made, readers)
        left = network.source_side()
        return {node for node, vertex in vertices.items() if vertex not in left}

    def _part(self, network: Network, value: ir.Value, made: int, readers: list[int]) -> None:
        """Lets `value` cost something on its way from one side to the other: once, each way."""
        time = round(boundary_time(value, self._shapes, self._costs))
        quantized, dequantized = network.vertex(), network.vertex()
        network.edge(made, quantized, time)
        network.edge(dequantized, made, 0 if self._gives_floats(value) else time)
        for reader in dict.fromkeys(readers):
            network.edge(quantized, reader, UNBREAKABLE)
            network.edge(reader, dequantized, UNBREAKABLE)

    def _gives_floats(self, value: ir.Value) -> bool:
        """Whether the integer kernel that makes `value` can give floats as well."""
        candidate = self._candidates.get(value.producer())  # type: ignore[arg-type]
        return candidate is not None and candidate.rule.float_output

    def _tensors(self) -> Iterable[ir.Value]:
        """What is computed or fed, and read."""
        graph = self._model.graph
        values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        return [v for v in values if constant_tensor(v) is None and not v.is_initializer()]

    def placed(self, integer: list[Candidate]) -> set[ir.Node]:
        """All nodes in integers, if the layers `integer` are."""
        placement = place(self._model, integer, self._rules, self._excluded)
        found = {candidate.node for candidate in integer} | set(placement.integer)
        readers = {node for uses in placement.tensors.values() for node, _ in uses}
        for node in self._nodes:
            if node in self._leaders:
                if self._leaders[node] in found:
                    found.add(node)
            elif node not in self._candidates and node not in self._followers and node in readers:
                found.add(node)
        return found

    def total(self, integer: Collection[ir.Node]) -> float:
        """The nanoseconds of a choice, but for what is float in any."""
        time = sum(float(pair[int(node in integer)]) for node, pair in self._nodes.items())
        for value in self._tensors():
            made = value.producer() in integer
            readers = {use.node in integer for use in value.uses()}
            if value.is_graph_output():
                readers.add(False)
            if (not made) in readers and not (made and self._gives_floats(value)):
                time += boundary_time(value, self._shapes, self._costs)
        return time


def shapes_of(model: ir.Model) -> Shapes:
    """The shapes of the values of `model` for one sample, where they can be inferred."""
    copy = model.clone()
    for value in copy.graph.inputs:
        if value.shape is not None and not value.is_initializer():
            shape = value.shape
            value.shape = ir.Shape(_length(shape, axis) for axis in range(len(shape)))
    forget_shapes(copy.graph)
    for value in copy.graph.outputs:
        value.shape = None
    try:
        infer_shapes(copy)
    except GraphoptError:
        return {}  # written for sizes that do not go together with these: nothing is known
    pairs = zip(_values(model.graph), _values(copy.graph), strict=True)
    known = ((value, static_shape(twin)) for value, twin in pairs)
    return {
        value: shape for value, shape in known if shape is not None and min(shape, default=0) >= 0
    }


def _length(shape: ir.Shape, axis: int) -> int:
    """How long an axis of an input is; a guess where it is free (some exporters say -1)."""
    length = shape[axis]
    if isinstance(length, int) and length >= 0:
        return length
    if axis == 0:
        return 1
    return PIXELS if len(shape) == 4 else OTHERS


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]
