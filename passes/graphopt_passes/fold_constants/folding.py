"""The pass: lift, find what is constant, decide, evaluate, replace; until nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import (
    Names,
    default_opset,
    drop_unused_initializer,
    is_standard,
    replaced_operators,
)
from graphopt.pipeline.base import PassResult
from graphopt_passes.fold_constants.candidates import Candidates
from graphopt_passes.fold_constants.constants import (
    can_become_constant,
    lift_constants,
    make_constant,
    skip_identities,
)
from graphopt_passes.fold_constants.dims import Dims, certain_dims
from graphopt_passes.fold_constants.evaluate import Evaluator
from graphopt_passes.fold_constants.partial import Partial, evaluate
from graphopt_passes.fold_constants.plan import Plan, plan
from graphopt_passes.fold_constants.reshape import constant_reshape

# A round folds all that is known so far; another follows only if that has told something new.
MAX_ROUNDS = 100


def fold_constants(model: ir.Model, max_growth: int) -> PassResult:
    """Folds the constants of `model` in place; see `FoldConstants`."""
    folder = _Folder(model, max_growth)
    folder.count("constant-to-initializer", lift_constants(model))
    folder.count("skip-identity-of-constant", skip_identities(model))
    for _ in range(MAX_ROUNDS):
        if not folder.round():
            break
    rewrites = {name: count for name, count in folder.rewrites.items() if count}
    return PassResult(model, bool(rewrites), rewrites, tuple(folder.notes()))


@dataclass
class _Round:
    """What one round finds out."""

    nodes: list[ir.Node]
    """All nodes of the main graph and its subgraphs, users after what they use."""
    dims: dict[ir.Value, Dims] = field(default_factory=dict)
    partials: dict[ir.Value, Partial] = field(default_factory=dict)
    known: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    """The outputs that shape arithmetic alone gives."""


class _Folder:
    def __init__(self, model: ir.Model, max_growth: int) -> None:
        self._model = model
        self._max_growth = max_growth
        self._opset = default_opset(model)
        self._overridden = replaced_operators(model)
        self._evaluator = Evaluator(self._opset)
        self._candidates = Candidates(model, self._opset, self._overridden, self._evaluator)
        self._names: Names | None = None
        self._plan = Plan({})
        self._problems: dict[str, None] = {}
        self.rewrites: Counter[str] = Counter()

    def count(self, name: str, times: int = 1) -> None:
        self.rewrites[name] += times

    def round(self) -> bool:
        """Folds what is known to be constant by now; whether there was any."""
        this = self._look()
        folded, arrays = self._fold(this)
        for value, array in arrays.items():
            make_constant(self._model, value, array)
        removed = _remove(folded, this.nodes)
        self.count("fold-shape", sum(node.outputs[0] in this.known for node in removed))
        self.count("fold", sum(node.outputs[0] not in this.known for node in removed))
        reshaped = self._reshape(this)
        return bool(removed) or reshaped

    def _look(self) -> _Round:
        this = _Round(list(ir.traversal.RecursiveGraphIterator(self._model.graph)))
        if any(is_standard(node, "Shape", "Size") for node in this.nodes):
            try:
                this.dims.update(certain_dims(self._model))
            except GraphoptError as error:
                self._problems[f"Folded without shapes: {error.what}."] = None
        this.partials = evaluate(self._model.graph, self._opset, this.dims, self._overridden)
        for node in this.nodes:
            partial = this.partials.get(node.outputs[0]) if len(node.outputs) == 1 else None
            if partial is None or not can_become_constant(
                self._model, node.outputs[0], partial.dtype
            ):
                continue
            array = partial.array()
            if array is not None:
                this.known[node.outputs[0]] = array
        return this

    def _fold(self, this: _Round) -> tuple[set[ir.Node], dict[ir.Value, np.ndarray]]:
        """The nodes to remove, and the arrays of the values that are needed in their place."""
        shape_nodes = {node for value in this.known if (node := value.producer()) is not None}
        while True:
            found = self._candidates.find(this.nodes, this.known)
            self._problems.update(dict.fromkeys(found.problems))
            self._plan = plan(found.nodes, found.outputs, this.known, self._max_growth)
            folded = shape_nodes | (set(found.nodes) - self._plan.kept.keys())
            needed = list(_needed(folded, this.nodes))
            wanted = [value for value in needed if value not in this.known]
            failures = len(self._evaluator.failed)
            arrays = self._evaluator.run(_ancestors(wanted, found.nodes), this.known, wanted)
            if len(self._evaluator.failed) == failures:
                break
        return folded, {v: this.known[v] if v in this.known else arrays[v] for v in needed}

    def _reshape(self, this: _Round) -> bool:
        changed = False
        for node in this.nodes:
            if node.graph is None or not is_standard(node, "Reshape"):
                continue
            if "Reshape" in self._overridden or node.inputs[1] not in this.partials:
                continue
            self._names = self._names or Names(self._model)
            if constant_reshape(
                self._model, node, self._opset, this.partials, this.dims, self._names
            ):
                self.count("constant-reshape")
                changed = True
        return changed

    def notes(self) -> Iterator[str]:
        """What was left to run time, and why."""
        yield from self._problems
        kept = [*self._plan.kept, *self._candidates.too_large]
        if kept:
            growth = sum(self._plan.kept.values()) + sum(self._candidates.too_large.values())
            yield (
                f"{_nodes(kept)} left to run time, since folding would add {growth:,} bytes "
                f"(max_growth is {self._max_growth:,})."
            )
        reasons: dict[str, list[ir.Node]] = {}
        for node, reason in self._evaluator.failed.items():
            reasons.setdefault(reason, []).append(node)
        for reason, failed in reasons.items():
            yield f"{_nodes(failed)} left to run time, since {reason}."


def _nodes(nodes: list[ir.Node]) -> str:
    first = f"'{nodes[0].name}' ({nodes[0].op_type})"
    return (
        f"Constant node {first}"
        if len(nodes) == 1
        else f"{len(nodes)} constant nodes, {first} first,"
    )


def _needed(folded: set[ir.Node], order: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """The outputs of `folded` that other nodes or the caller use."""
    for node in order:
        if node in folded:
            for value in node.outputs:
                if value.is_graph_output() or any(u.node not in folded for u in value.uses()):
                    yield value


def _ancestors(values: Iterable[ir.Value], nodes: list[ir.Node]) -> list[ir.Node]:
    """Those of `nodes` (in topological order) that `values` depend on."""
    wanted = set(values)
    found = []
    for node in reversed(nodes):
        if any(value in wanted for value in node.outputs):
            found.append(node)
            wanted.update(value for value in node.inputs if value is not None)
    return found[::-1]


def _remove(folded: set[ir.Node], order: list[ir.Node]) -> list[ir.Node]:
    """Removes those of `folded` that nothing uses any more, and the initializers they leave."""
    gone: dict[ir.Node, None] = {}
    for node in reversed(order):
        if node in folded and not any(
            v.is_graph_output() or any(u.node not in gone for u in v.uses()) for v in node.outputs
        ):
            gone[node] = None
    sources: dict[ir.Value, None] = {}
    by_graph: dict[ir.Graph, list[ir.Node]] = {}
    for node in gone:
        for index, value in enumerate(node.inputs):
            if value is not None:
                sources[value] = None
                node.replace_input_with(index, None)
        if isinstance(node.graph, ir.Graph):
            by_graph.setdefault(node.graph, []).append(node)
    for graph, nodes in by_graph.items():
        graph.remove(nodes)
    for value in sources:
        drop_unused_initializer(value)
    return list(gone)
