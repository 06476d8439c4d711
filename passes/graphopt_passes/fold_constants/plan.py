"""Which constant nodes to fold, so that the model does not grow.

Folding a node adds its outputs and frees the weights that nobody else uses. How much it adds is
the difference: each freed weight is shared out, along the edges, among the values that it becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt_passes.fold_constants.island import Output, constant_type

# Growth that never counts: about what the removed node itself took.
NEGLIGIBLE_BYTES = 1024


@dataclass(frozen=True)
class Plan:
    """Which constant nodes are left to run time."""

    kept: Mapping[ir.Node, int]
    """Those whose folding would make the model grow, and by how many bytes."""


def plan(
    nodes: list[ir.Node],
    outputs: Mapping[ir.Value, Output],
    known: Mapping[ir.Value, np.ndarray],
    max_growth: int,
) -> Plan:
    """Decides which of `nodes` (constant, in topological order) are not to be folded.

    A value that alone adds more than `max_growth` bytes is kept. If the others together add more
    than that, every one of them that adds more than NEGLIGIBLE_BYTES is kept. So what is left
    would be left by a second run too, which has all of `max_growth` before it again.
    """
    growth = _Growth(nodes, outputs, known)
    kept: dict[ir.Node, int] = {}
    _keep(kept, nodes, growth, limit=max_growth)
    added = [growth.of(value) for value in _needed(nodes, kept)]
    if sum(size for size in added if size > NEGLIGIBLE_BYTES) > max_growth:
        _keep(kept, nodes, growth, limit=NEGLIGIBLE_BYTES)
    return Plan(kept)


def _keep(kept: dict[ir.Node, int], nodes: list[ir.Node], growth: _Growth, *, limit: int) -> None:
    """Adds to `kept` what adds more than `limit`; then its inputs are needed, and so on."""
    foldable = set(nodes)
    pending = _needed(nodes, kept)[::-1]
    seen = set(pending)
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node in kept or growth.of(value) <= limit:
            continue
        kept[node] = growth.of(value)
        for source in node.inputs:
            if source is not None and source.producer() in foldable and source not in seen:
                seen.add(source)
                pending.append(source)


def _needed(nodes: list[ir.Node], kept: Mapping[ir.Node, int]) -> list[ir.Value]:
    """The outputs of folded nodes that a node which stays, or the caller, uses."""
    gone = set(nodes) - kept.keys()
    return [
        value
        for node in nodes
        if node not in kept
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in gone for use in value.uses())
    ]


class _Growth:
    """By how many bytes the model grows when a value becomes a constant."""

    def __init__(
        self,
        nodes: list[ir.Node],
        outputs: Mapping[ir.Value, Output],
        known: Mapping[ir.Value, np.ndarray],
    ) -> None:
        self._outputs = outputs
        self._known = known
        self._nodes = set(nodes)
        self._per_use: dict[ir.Value, float] = {}
        self._own: dict[ir.Value, float] = {}
        """What of the freed bytes reaches a value, and is not passed on if it stays itself."""
        for node in nodes:
            flow = sum(self._share(value) for value in node.inputs if value is not None)
            total = sum(outputs[v].nbytes for v in node.outputs if v in outputs)
            for value in node.outputs:
                if value in outputs:
                    self._pass_on(value, flow * outputs[value].nbytes / max(total, 1))

    def of(self, value: ir.Value) -> int:
        return int(self._outputs[value].nbytes - self._own.get(value, 0.0))

    def _pass_on(self, value: ir.Value, flow: float) -> None:
        uses = value.uses()
        inside = sum(use.node in self._nodes for use in uses)
        stays = value.is_graph_output() or inside < len(uses)
        self._per_use[value] = flow / max(inside + stays, 1)
        self._own[value] = self._per_use[value] if stays else flow

    def _share(self, value: ir.Value) -> float:
        """The freed bytes that one use of `value` carries on."""
        if value not in self._per_use:
            self._per_use[value] = self._weight_per_use(value)
        return self._per_use[value]

    def _weight_per_use(self, value: ir.Value) -> float:
        uses = value.uses()
        if value in self._known or value.is_graph_output() or value.is_graph_input():
            return 0.0
        if any(use.node not in self._nodes for use in uses):
            return 0.0
        constant = constant_type(value, self._known)
        return 0.0 if constant is None else constant[1] / len(uses)
