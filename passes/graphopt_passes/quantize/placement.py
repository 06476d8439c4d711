"""Which tensors are quantized, and which of their uses read the quantized values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import constant_tensor, is_standard, sole_use
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.existing import Pair, pairs
from graphopt_passes.quantize.gates import is_sum
from graphopt_passes.quantize.movers import only_moves
from graphopt_passes.quantize.outlets import outlet

Use = tuple[ir.Node, int]


@dataclass(frozen=True)
class Placement:
    """Where the pairs go. A tensor is quantized once, however many nodes read it."""

    tensors: dict[ir.Value, tuple[Use, ...]]
    """Each tensor to quantize, in the order of the graph, and the uses that read the result. Its
    other uses go on reading the float values."""
    dtypes: dict[ir.Value, ir.DataType]
    """The float type of each of those tensors."""
    groups: tuple[tuple[ir.Value, ...], ...]
    """Those tensors, each in exactly one group; the tensors of a group share a scale."""
    given: tuple[tuple[Pair, tuple[Use, ...]], ...] = ()
    """Pairs that the model has already, and the uses of their sources that are to read them."""
    integer: frozenset[ir.Node] = frozenset()
    """The nodes without a weight that are computed in integers."""
    gates: tuple[ir.Node, ...] = ()
    """Those of them that are to be spread (`graphopt_passes.quantize.gates`)."""

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.tensors and not any(uses for _, uses in self.given)


def place(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: Collection[ir.Node],
) -> Placement:
    """Decides by `rules`, for the `candidates`; nodes in `excluded` are not touched."""
    planner = _Planner(model.graph, candidates, rules, excluded)
    planner.plan()
    return planner.result()


def reachable(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: Collection[ir.Node],
) -> list[ir.Value]:
    """Every tensor that `place` may choose for some of the `candidates`, in the graph's order."""
    return _Planner(model.graph, candidates, rules, excluded).reachable()


class _Planner:
    """Demands say which uses should read quantized values."""

    def __init__(
        self,
        graph: ir.Graph,
        candidates: list[Candidate],
        rules: QuantizationRules,
        excluded: Collection[ir.Node],
    ) -> None:
        self.nodes = list(graph)
        self.inputs = list(graph.inputs)
        self.rules = rules
        self.excluded = excluded
        self.layers = {candidate.node for candidate in candidates}
        self.passed: set[ir.Node] = set()
        """Nodes that move integers: the pair was moved above them."""
        self.followers: set[ir.Node] = set()
        """Nodes without a weight that are computed in integers."""
        found = pairs(graph)
        self.given = {pair.source: pair for pair in reversed(found)}
        self.results = {pair.result: pair for pair in found}
        self.demands: dict[ir.Value, set[Use]] = {}
        self.dtypes: dict[ir.Value, ir.DataType] = {}
        for candidate in candidates:
            use = (candidate.node, candidate.rule.data)
            self.demand(candidate.data, use, candidate.dtype)
            if not candidate.rule.float_output:
                self.demand_whole(outlet(candidate.node, rules), candidate.dtype)

    def plan(self) -> None:
        while self.join_residuals() | self.follow() | self.move():
            pass

    def demand(self, value: ir.Value, use: Use, dtype: ir.DataType) -> None:
        if value not in self.results:
            self.demands.setdefault(value, set()).add(use)
            self.dtypes[value] = dtype

    def demand_whole(self, value: ir.Value, dtype: ir.DataType) -> None:
        """Lets all read the quantized values of `value`, for the kernel gives no others."""
        for use in value.uses():
            if not (value in self.given and is_standard(use.node, "QuantizeLinear")):
                self.demand(value, (use.node, use.idx), dtype)

    def is_quantized(self, value: ir.Value | None) -> bool:
        """Whether there is a quantized form of `value`, or it is one."""
        return value is not None and (
            value in self.demands or value in self.given or value in self.results
        )

    def join_residuals(self) -> bool:
        """Lets a residual addition read the quantized skip; whether any was found."""
        found = False
        for node in self.nodes:
            if not is_standard(node, *self.rules.additions) or len(node.inputs) != 2:
                continue
            if node in self.excluded:
                continue
            for index in (0, 1):
                skip, branch = node.inputs[index], node.inputs[1 - index]
                if skip is None or branch is None or skip not in self.demands:
                    continue
                if self.is_integer_branch(branch) and (node, index) not in self.demands[skip]:
                    self.demand(skip, (node, index), self.dtypes[skip])
                    found = True
        return found

    def is_integer_branch(self, value: ir.Value) -> bool:
        producer = value.producer()
        return (
            producer in self.layers
            and producer.op_type in self.rules.residual_branches
            and sole_use(value) is not None
        )

    def follow(self) -> bool:
        """Computes in integers what has all its inputs in integers; whether any was found."""
        found = False
        for node in self.nodes:
            if not is_standard(node, *self.rules.followers) or node in self.excluded:
                continue
            inputs = [value for value in node.inputs if value is not None]
            if node in self.followers or not all(self.is_quantized(value) for value in inputs):
                continue
            end = outlet(node, self.rules)
            if end.is_graph_output():
                continue
            if is_standard(node, *self.rules.gates) and not is_sum(node):
                continue
            dtype = self.dtype_of(inputs)
            if dtype is None:
                continue
            for index, value in enumerate(inputs):
                self.demand(value, (node, index), dtype)
            self.demand_whole(end, dtype)
            self.followers.add(node)
            found = True
        return found

    def dtype_of(self, values: list[ir.Value]) -> ir.DataType | None:
        return next((self.dtypes[value] for value in values if value in self.dtypes), None)

    def move(self) -> bool:
        """Moves demands above nodes that only move values; whether any was moved."""
        moved = False
        for node in reversed(self.nodes):
            if node in self.excluded or node in self.passed or not self.is_wanted(node):
                continue
            sources = self.sources(node)
            if not sources:
                continue
            wanted = [value for value in node.outputs if value in self.demands]
            dtype = self.dtypes[wanted[0]]
            for value in wanted:
                if self.rules.pairs_behind_movers:
                    self.demand_whole(value, dtype)
                else:
                    del self.demands[value]
            for source, index in sources:
                self.demand(source, (node, index), dtype)
            self.passed.add(node)
            moved = True
        return moved

    def is_wanted(self, node: ir.Node) -> bool:
        """Whether what `node` gives should be moved in integers.

        It should where quantized values are all that anyone wants of it, and where it has pairs
        behind it anyway if some do.
        """
        used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if not used or any(value.is_graph_output() for value in used):
            return False
        if any(value not in self.demands for value in used):
            return False
        if self.rules.pairs_behind_movers and self.is_quantized(node.inputs[0]):
            return True
        return all(self.demands[value].issuperset(value.uses()) for value in used)

    def sources(self, node: ir.Node, *, of_some: bool = False) -> list[tuple[ir.Value, int]]:
        """The inputs that can be quantized in place of the outputs of `node`; [] if not.

        Args:
            of_some: or could be, if other candidates were quantized than these.
        """
        first = node.inputs[:1]
        if is_standard(node, *self.rules.joins):
            sources = list(enumerate(node.inputs)) if self.may_join(node) else []
        elif is_standard(node, *self.rules.movers):
            sources = list(enumerate(first)) if only_moves(node) else []
        elif is_standard(node, *self.rules.selectors):
            quantized = of_some or self.is_quantized(first[0])
            sources = list(enumerate(first)) if quantized else []
        else:
            sources = []
        usable = [(v, i) for i, v in sources if v is not None and not _is_constant(v)]
        return usable if len(usable) == len(sources) else []

    def may_join(self, node: ir.Node) -> bool:
        """Whether the inputs of `node` can have one scale: some that are given must be equal."""
        grids = [
            None if pair is None else (float(pair.scale), pair.zero_point)
            for pair in (self.results.get(v) or self.given.get(v) for v in node.inputs)  # type: ignore[arg-type]
        ]
        return len(set(grids)) <= 1

    def reachable(self) -> list[ir.Value]:
        found: set[ir.Value] = set()
        pending = list(self.demands)
        while pending:
            value = pending.pop()
            if value in found:
                continue
            found.add(value)
            producer = value.producer()
            if producer is not None and producer not in self.excluded:
                pending.extend(source for source, _ in self.sources(producer, of_some=True))
        self.plan()
        found.update(self.demands)
        return [value for value in self.order() if value in found]

    def order(self) -> list[ir.Value]:
        return [*self.inputs, *(value for node in self.nodes for value in node.outputs)]

    def result(self) -> Placement:
        rank = {node: i for i, node in enumerate(self.nodes)}
        uses = {
            value: tuple(sorted(self.demands[value], key=lambda use: (rank.get(use[0], 0), use[1])))
            for value in self.order()
            if value in self.demands
        }
        tensors = {value: found for value, found in uses.items() if value not in self.given}
        dtypes = {value: self.dtypes[value] for value in tensors}
        given = tuple((pair, uses.get(pair.source, ())) for pair in self.given.values())
        groups = self.groups(list(tensors))
        gates = tuple(
            node
            for node in self.nodes
            if node in self.followers and is_standard(node, *self.rules.gates)
        )
        return Placement(tensors, dtypes, groups, given, frozenset(self.followers), gates)

    def groups(self, tensors: list[ir.Value]) -> tuple[tuple[ir.Value, ...], ...]:
        leader = {value: value for value in tensors}
        # The tensors to quantize from which each value, above which the pair was moved, comes.
        roots: dict[ir.Value, tuple[ir.Value, ...]] = {value: (value,) for value in self.demands}
        for node in self.nodes:
            if node not in self.passed:
                continue
            sources = node.inputs if is_standard(node, *self.rules.joins) else node.inputs[:1]
            above = _union(roots, sources)
            for value in node.outputs:
                roots.setdefault(value, above)
            joined = _union(roots, node.outputs) if self.rules.pairs_behind_movers else ()
            leaders = [leader[root] for root in (*above, *joined) if root in leader]
            if len(set(leaders)) > 1:
                leader = {v: leaders[0] if w in leaders else w for v, w in leader.items()}
        members: dict[ir.Value, list[ir.Value]] = {}
        for value in tensors:
            members.setdefault(leader[value], []).append(value)
        return tuple(tuple(group) for group in members.values())


def _union(
    roots: Mapping[ir.Value, tuple[ir.Value, ...]], values: Sequence[ir.Value | None]
) -> tuple[ir.Value, ...]:
    """The roots of all of `values`, each once."""
    every = (root for value in values if value is not None for root in roots.get(value, ()))
    return tuple(dict.fromkeys(every))


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() or constant_tensor(value) is not None
