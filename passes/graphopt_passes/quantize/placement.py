"""Which tensors are quantized, and which of their uses read the quantized values."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, is_standard, rank, sole_use
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate

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


def place(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: set[ir.Node],
) -> Placement:
    """Decides by `rules`, for the `candidates`; nodes in `excluded` are not touched."""
    planner = _Planner(model.graph, candidates, rules, excluded)
    while planner.join_residuals() | planner.move_up():
        pass
    return planner.result()


def reachable(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: set[ir.Node],
) -> list[ir.Value]:
    """Every tensor that `place` may choose for some of the `candidates`, in the graph's order."""
    return _Planner(model.graph, candidates, rules, excluded).reachable()


class _Planner:
    """Demands say which uses should read quantized values; they only ever move up the graph."""

    def __init__(
        self,
        graph: ir.Graph,
        candidates: list[Candidate],
        rules: QuantizationRules,
        excluded: set[ir.Node],
    ) -> None:
        self.nodes = list(graph)
        self.inputs = list(graph.inputs)
        self.rules = rules
        self.excluded = excluded
        self.integer = {candidate.node for candidate in candidates}
        self.passed: set[ir.Node] = set()
        """Nodes that the pair was moved above."""
        self.demands: dict[ir.Value, set[Use]] = {}
        self.dtypes: dict[ir.Value, ir.DataType] = {}
        for candidate in candidates:
            use = (candidate.node, candidate.rule.data)
            self.demand(candidate.data, use, candidate.tensor.dtype)

    def demand(self, value: ir.Value, use: Use, dtype: ir.DataType) -> None:
        self.demands.setdefault(value, set()).add(use)
        self.dtypes[value] = dtype

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
            producer in self.integer
            and producer.op_type in self.rules.residual_branches
            and sole_use(value) is not None
        )

    def move_up(self) -> bool:
        """Moves demands above nodes that only move values; whether any was moved."""
        moved = False
        for node in reversed(self.nodes):
            if node in self.excluded or not self.is_wholly_demanded(node):
                continue
            sources = self.sources(node)
            if not sources:
                continue
            wanted = [value for value in node.outputs if self.demands.pop(value, None)]
            dtype = self.dtypes[wanted[0]]
            for source, index in sources:
                self.demand(source, (node, index), dtype)
            self.passed.add(node)
            moved = True
        return moved

    def is_wholly_demanded(self, node: ir.Node) -> bool:
        """Whether quantized values are all that anyone wants of `node`."""
        used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        return bool(used) and all(
            not value.is_graph_output()
            and value in self.demands
            and self.demands[value].issuperset(value.uses())
            for value in used
        )

    def sources(self, node: ir.Node, *, of_some: bool = False) -> list[tuple[ir.Value, int]]:
        """The inputs that can be quantized in place of the outputs of `node`; [] if not.

        Args:
            of_some: or could be, if other candidates were quantized than these.
        """
        first = node.inputs[:1]
        if is_standard(node, *self.rules.joins):
            sources = list(enumerate(node.inputs))
        elif is_standard(node, *self.rules.movers):
            sources = list(enumerate(first)) if _only_moves(node) else []
        elif is_standard(node, *self.rules.selectors):
            sources = list(enumerate(first)) if of_some or first[0] in self.demands else []
        else:
            sources = []
        usable = [(v, i) for i, v in sources if v is not None and not _is_constant(v)]
        return usable if len(usable) == len(sources) else []

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
        return [value for value in self.order() if value in found]

    def order(self) -> list[ir.Value]:
        return [*self.inputs, *(value for node in self.nodes for value in node.outputs)]

    def result(self) -> Placement:
        rank = {node: i for i, node in enumerate(self.nodes)}
        tensors = {
            value: tuple(sorted(self.demands[value], key=lambda use: (rank[use[0]], use[1])))
            for value in self.order()
            if value in self.demands
        }
        dtypes = {value: self.dtypes[value] for value in tensors}
        return Placement(tensors, dtypes, self.groups(list(tensors)))

    def groups(self, tensors: list[ir.Value]) -> tuple[tuple[ir.Value, ...], ...]:
        leader = {value: value for value in tensors}
        for node in self.nodes:
            if node in self.passed and is_standard(node, *self.rules.joins):
                roots = [root for value in node.inputs for root in self.roots(value)]
                chosen = {leader[root] for root in roots}
                leader = {v: leader[roots[0]] if w in chosen else w for v, w in leader.items()}
        members: dict[ir.Value, list[ir.Value]] = {}
        for value in tensors:
            members.setdefault(leader[value], []).append(value)
        return tuple(tuple(group) for group in members.values())

    def roots(self, value: ir.Value | None) -> list[ir.Value]:
        """The tensors to quantize from which `value`, above which the pair was moved, comes."""
        if value is None or value in self.demands:
            return [] if value is None else [value]
        producer = value.producer()
        if producer is None:
            return []
        joins = is_standard(producer, *self.rules.joins)
        sources = producer.inputs if joins else producer.inputs[:1]
        return [root for source in sources for root in self.roots(source)]


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() or constant_tensor(value) is not None


def _only_moves(node: ir.Node) -> bool:
    """Whether `node`, a mover by its operator, also is one by its attributes and outputs."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False  # the indices of a MaxPool
    return node.op_type != "Pad" or (_pads_space_one_way(node) and _fills_with_nothing_new(node))


def _fills_with_nothing_new(pad: ir.Node) -> bool:
    """Whether `pad` writes zeros, or values that it finds in its input."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return True
    fill = pad.inputs[2] if len(pad.inputs) > 2 else None
    if fill is None:
        return True
    array = constant_array(fill)
    return array is not None and not array.any()


def _pads_space_one_way(pad: ir.Node) -> bool:
    """Whether `pad` only grows or only crops, and neither the batch nor the channels.

    TensorRT-RTX 1.7 computes a Conv behind any other Pad of integers in float.
    """
    pads = constant_array(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if pads is None:
        return False
    axes = list(range(len(pads) // 2))
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        named, size = constant_array(pad.inputs[3]), rank(pad.inputs[0])
        if named is None or (size is None and (named < 0).any()):
            return False
        axes = [int(axis) % size if size else int(axis) for axis in named]
    by_axis = list(zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True))
    outer = any(before or after for axis, before, after in by_axis if axis < 2)
    return not outer and (bool((pads >= 0).all()) or bool((pads <= 0).all()))
