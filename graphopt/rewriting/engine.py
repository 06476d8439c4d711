"""Applying rules until none fits any more."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import nodes_of, replaced_operators
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt.pipeline.base import Declined, PassContext, PassResult
from graphopt.rewriting.rewriter import Rewriter
from graphopt.rewriting.rule import DeclinedError, Rule

# A node is rewritten a few times at most; rules that undo one another would go on for ever.
MAX_REWRITES_PER_NODE = 50


def rewrite(model: ir.Model, context: PassContext, rules: Sequence[Rule]) -> PassResult:
    """Applies `rules` to all graphs, subgraphs and functions of `model`, in place.

    Nodes are visited in topological order, and again whenever something around them changes. The
    rules of a node are tried in the order of `rules`.
    """
    engine = _Engine(model, context, rules)
    engine.run()
    rewrites = dict(sorted(engine.counts.items()))
    return PassResult(model, bool(rewrites), rewrites, declined=tuple(engine.declined()))


class _Engine:
    def __init__(self, model: ir.Model, context: PassContext, rules: Sequence[Rule]) -> None:
        self._all_rules = rules
        self._rules: dict[str, list[Rule]] = {}
        self.counts: Counter[str] = Counter()
        self._declined: dict[tuple[Rule, ir.Node], str] = {}
        self._model = model
        self._queue: deque[ir.Node] = deque()
        self._queued: set[ir.Node] = set()
        nodes = context.analyses.nodes(model)
        self._search(nodes, context.analyses.operators(model))
        self._left = MAX_REWRITES_PER_NODE * (len(nodes) + 20)
        self._at = Rewriter(model, context, self._touch)

    def _search(self, nodes: Sequence[ir.Node], operators: frozenset[str]) -> None:
        """Queues those of `nodes`, all of the model, that rules which can match start at.

        Args:
            operators: those of `nodes`.
        """
        replaced = replaced_operators(self._model)
        self._rules = {}
        for rule in self._all_rules:
            if rule.needs and operators.isdisjoint(rule.needs):
                continue
            for operator in rule.operators:
                if operator not in replaced:
                    self._rules.setdefault(operator, []).append(rule)
        if operators.isdisjoint(self._rules):
            return
        for node in nodes:
            if node.op_type in self._rules:  # first, since most are not
                self._touch(node)

    def _has_rules(self, node: ir.Node) -> bool:
        return node.op_type in self._rules and node.domain in DEFAULT_DOMAINS

    def _touch(self, node: ir.Node) -> None:
        """Something around `node` has changed."""
        if node not in self._queued and self._has_rules(node):
            self._queue.append(node)
            self._queued.add(node)

    def run(self) -> None:
        """In rounds over the whole model until one changes nothing.

        A rule may depend on more than the nodes next to its own, such as on who else uses a value.
        """
        done = 0
        self._drain()
        while self.counts.total() > done:
            done = self.counts.total()
            self._at.renew_facts()
            nodes = list(nodes_of(self._model))
            self._search(nodes, frozenset([node.op_type for node in nodes]))
            self._drain()

    def _drain(self) -> None:
        while self._queue:
            node = self._queue.popleft()
            self._queued.discard(node)
            if node.graph is not None and self._visit(node):
                self._touch(node)

    def _visit(self, node: ir.Node) -> bool:
        """Tries the rules of `node` until one fits; whether one did."""
        for rule in self._rules.get(node.op_type, ()):
            try:
                changed = rule.apply(node, self._at)
            except DeclinedError as reason:
                self._declined[rule, node] = str(reason)
                continue
            self._declined.pop((rule, node), None)
            if changed:
                self._count(rule, node)
                return True
        return False

    def _count(self, rule: Rule, node: ir.Node) -> None:
        self.counts[rule.name] += 1
        self._left -= 1
        if self._left < 0:
            raise GraphoptError(
                f"rewrite '{rule.name}' does not come to rest, last at node '{node.name}'",
                fix="report this as a bug, with the model",
            )

    def declined(self) -> list[Declined]:
        """The near misses of the nodes that are still there."""
        return [
            Declined.of(rule.name, node, reason)
            for (rule, node), reason in self._declined.items()
            if node.graph is not None
        ]
