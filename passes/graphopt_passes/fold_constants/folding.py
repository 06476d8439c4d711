"""The pass: lift, find what is constant, decide, evaluate, replace; until nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.ir import (
    Names,
    constant_tensor,
    drop_unused_initializer,
    is_standard,
    replaced_operators,
    walk,
)
from graphopt.ir.facts import Facts
from graphopt.ir.facts.data_rules import DATA_RULES
from graphopt.ir.facts.fact import MAX_ITEMS, RANGES
from graphopt.pipeline.base import PassContext, PassResult
from graphopt_passes.fold_constants.candidates import Candidates
from graphopt_passes.fold_constants.constants import (
    can_become_constant,
    lift_constants,
    make_constant,
    skip_identities,
)
from graphopt_passes.fold_constants.evaluate import Evaluator
from graphopt_passes.fold_constants.plan import Plan, plan
from graphopt_passes.fold_constants.reshape import constant_reshape

# A round folds all that is known so far; another follows only if that has told something new.
MAX_ROUNDS = 100


def fold_constants(model: ir.Model, context: PassContext, max_growth: int) -> PassResult:
    """Folds the constants of `model` in place; see `FoldConstants`."""
    facts, operators = context.analyses.facts(model), context.analyses.operators(model)
    folder = _Folder(model, facts, max_growth)
    if "Constant" in operators:
        folder.count("constant-to-initializer", lift_constants(model))
    if "Identity" in operators:
        folder.count("skip-identity-of-constant", skip_identities(model))
    for _ in range(MAX_ROUNDS):
        if not folder.round():
            break
        facts.refine()
    rewrites = {name: count for name, count in sorted(folder.rewrites.items()) if count}
    return PassResult(model, bool(rewrites), rewrites, tuple(folder.notes()))


class _Folder:
    def __init__(self, model: ir.Model, facts: Facts, max_growth: int) -> None:
        self._model = model
        self._facts = facts
        self._max_growth = max_growth
        self._overridden = replaced_operators(model)
        self._evaluator = Evaluator(facts)
        self._candidates = Candidates(model, facts, self._overridden, self._evaluator)
        self._names: Names | None = None
        self._plan = Plan({})
        self.rewrites: Counter[str] = Counter()

    def count(self, name: str, times: int = 1) -> None:
        self.rewrites[name] += times

    def round(self) -> bool:
        """Folds what is known to be constant by now; whether that may have told something new."""
        nodes = list(walk(self._model.graph))
        known = self._shape_arithmetic(nodes)
        folded, arrays, waits = self._fold(nodes, known)
        for value, array in arrays.items():
            make_constant(self._model, value, array)
        removed = _remove(folded, nodes)
        self.count("fold-shape", sum(node.outputs[0] in known for node in removed))
        self.count("fold", sum(node.outputs[0] not in known for node in removed))
        self._reshape(nodes)
        told = any(value not in known and _may_be_a_shape(a) for value, a in arrays.items())
        return told or (waits and bool(removed))

    def _shape_arithmetic(self, nodes: list[ir.Node]) -> dict[ir.Value, np.ndarray]:
        """The small integers that follow from the shapes of the graph's inputs, and constants.

        Only what stems from a Shape or Size is looked at: the rest is evaluated as it is.
        """
        known: dict[ir.Value, np.ndarray] = {}
        followed: set[ir.Value] = set()
        for node in nodes:
            if node.op_type not in DATA_RULES or not is_standard(node, node.op_type):
                continue
            stems = node.op_type in ("Shape", "Size") or any(v in followed for v in node.inputs)
            if not stems or len(node.outputs) != 1:
                continue
            value = node.outputs[0]
            fact = self._facts[value]
            if fact.items is None:
                continue
            followed.add(value)
            array = fact.array()
            if array is not None and can_become_constant(
                self._model, value, ir.DataType.from_numpy(array.dtype)
            ):
                known[value] = array
        return known

    def _fold(
        self, nodes: list[ir.Node], known: dict[ir.Value, np.ndarray]
    ) -> tuple[set[ir.Node], dict[ir.Value, np.ndarray], bool]:
        """The nodes to remove, the arrays of the values that are needed in their place, and whether
        other nodes wait for these."""
        shape_nodes = {node for value in known if (node := value.producer()) is not None}
        while True:
            found = self._candidates.find(nodes, known)
            self._plan = plan(found.nodes, found.outputs, known, self._max_growth)
            folded = shape_nodes | (set(found.nodes) - self._plan.kept.keys())
            needed = list(_needed(folded, nodes))
            wanted = [value for value in needed if value not in known]
            failures = len(self._evaluator.failed)
            arrays = self._evaluator.run(_ancestors(wanted, found.nodes), known, wanted)
            if len(self._evaluator.failed) == failures:
                break
        wanted_arrays = {v: known[v] if v in known else arrays[v] for v in needed}
        return folded, wanted_arrays, found.waits

    def _reshape(self, nodes: list[ir.Node]) -> None:
        if "Reshape" in self._overridden:
            return
        for node in nodes:
            if node.op_type != "Reshape" or not is_standard(node, "Reshape") or node.graph is None:
                continue
            if len(node.inputs) != 2 or constant_tensor(node.inputs[1]) is not None:
                continue
            self._names = self._names or Names(self._model)
            if constant_reshape(self._model, node, self._facts, self._names):
                self.count("constant-reshape")
                self._facts.renew([node])

    def notes(self) -> Iterator[str]:
        """What was left to run time, and why."""
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


def _may_be_a_shape(array: np.ndarray) -> bool:
    """Whether shapes may follow from `array`, which could tell of more constants."""
    small = array.ndim <= 1 and array.size <= MAX_ITEMS
    return small and ir.DataType.from_numpy(array.dtype) in RANGES


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
