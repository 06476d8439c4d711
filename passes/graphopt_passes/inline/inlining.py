"""The pass: one walk, which goes on into what it has put in place of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from graphopt.ir import is_standard, replaced_operators, subgraphs, walk
from graphopt.pipeline.base import Declined, PassContext, PassResult
from graphopt.rewriting import DeclinedError
from graphopt_passes.inline.branches import chosen_branch, lift_branch, same_branch
from graphopt_passes.inline.calls import Calls
from graphopt_passes.inline.loops import Loops
from graphopt_passes.inline.splice import Splicer

_BRANCHING = ("If", "Loop")


def inline(model: ir.Model, context: PassContext, max_unroll: int, max_nodes: int) -> PassResult:
    """Inlines in the main graph of `model` and its subgraphs, in place; see `Inline`.

    Raises:
        GraphoptError: if a function calls itself.
    """
    if not model.functions and context.analyses.operators(model).isdisjoint(_BRANCHING):
        return PassResult(model, False)
    inliner = _Inliner(model, context, max_unroll, max_nodes)
    inliner.run()
    rewrites = dict(sorted(inliner.counts.items()))
    if rewrites:
        context.analyses.facts(model).refine()
    return PassResult(model, bool(rewrites), rewrites, declined=tuple(inliner.declined))


class _Inliner:
    def __init__(
        self, model: ir.Model, context: PassContext, max_unroll: int, max_nodes: int
    ) -> None:
        self._model = model
        self._replaced = replaced_operators(model)
        splicer = Splicer(model)
        self._facts = context.analyses.facts(model)
        self._calls = Calls(model, splicer)
        self._loops = Loops(model, self._facts, splicer, max_unroll, max_nodes)
        self._splicer = splicer
        self._entered: set[ir.Node] = set()
        self._pending: list[ir.Node] = []
        self.counts: Counter[str] = Counter()
        self.declined: list[Declined] = []

    def run(self) -> None:
        self._next(self._model.graph)
        while self._pending:
            node = self._pending.pop()
            if not self._expand(node, entering=node not in self._entered):
                self._enter(node)

    def _next(self, nodes: Iterable[ir.Node]) -> None:
        self._pending.extend(reversed(list(nodes)))

    def _enter(self, node: ir.Node) -> None:
        """Takes the nodes inside `node` next, and then `node` once more."""
        graphs = list(subgraphs(node)) if node.attributes and node not in self._entered else []
        if graphs:
            self._entered.add(node)
            self._pending.append(node)
            for graph in reversed(graphs):
                self._next(graph)

    def _expand(self, node: ir.Node, *, entering: bool) -> bool:
        """Whether other nodes have taken the place of `node`.

        Args:
            entering: whether the nodes inside `node` have not been seen yet.
        """
        rewrite = "function" if self._calls.function(node) else node.op_type.lower()
        try:
            nodes = self._expanded(node, rewrite, entering)
        except DeclinedError as reason:
            if not (entering and next(subgraphs(node), None)):
                self.declined.append(Declined.of(rewrite, node, str(reason)))
            return False
        if nodes is None:
            return False
        self.counts[rewrite] += 1
        self._entered.difference_update(_inside(nodes))
        self._next(nodes)
        return True

    def _expanded(self, node: ir.Node, rewrite: str, entering: bool) -> list[ir.Node] | None:
        """The nodes that have taken the place of `node`, if any have."""
        if rewrite == "function":
            return self._calls.expand(node)
        if rewrite == "if" and self._is_own(node, "If"):
            branch = chosen_branch(node) or (None if entering else same_branch(node))
            if branch is None:
                return None
            return lift_branch(node, branch, self._splicer, self._facts)
        if rewrite == "loop" and self._is_own(node, "Loop"):
            return self._loops.expand(node, never_only=entering)
        return None

    def _is_own(self, node: ir.Node, op_type: str) -> bool:
        return is_standard(node, op_type) and op_type not in self._replaced


def _inside(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from walk(graph)
