"""The pass: one walk that numbers values, and merges those that get the same number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.ir import (
    constant_tensor,
    drop_unused_initializer,
    label,
    remove_node,
    replaced_operators,
    subgraphs,
    take_over,
)
from graphopt.ir.structure import attribute_key, graph_key
from graphopt.pipeline.base import Declined, PassContext, PassResult
from graphopt_passes.merge_duplicates.constants import constant_key, sample_key, whole_key
from graphopt_passes.merge_duplicates.operators import Operator, Operators
from graphopt_passes.merge_duplicates.table import Table

NODE, INITIALIZER, CONSTANT = "duplicate-node", "duplicate-initializer", "duplicate-constant"


def merge_duplicates(model: ir.Model, context: PassContext) -> PassResult:
    """Merges the duplicates of `model` in place; see `MergeDuplicates`."""
    merger = _Merger(model, context)
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        merger.walk(root)
    rewrites = dict(sorted(merger.counts.items()))
    return PassResult(model, bool(rewrites), rewrites, declined=tuple(merger.declined))


class _Merger:
    def __init__(self, model: ir.Model, context: PassContext) -> None:
        self._model = model
        self._facts = context.analyses.facts(model)
        self._holds = "Constant" not in replaced_operators(model)
        self.counts: Counter[str] = Counter()
        self.declined: list[Declined] = []

    def walk(self, root: ir.Graph | ir.Function) -> None:
        self._operators = Operators(self._model, root)
        self._nodes: Table[ir.Node] = Table()
        self._constants: Table[ir.Value] = Table()
        self._root = root
        self._shadowed: set[str] | None = None
        self._graph(root)

    def _graph(self, graph: ir.Graph | ir.Function) -> None:
        if isinstance(graph, ir.Graph):
            for value in list(graph.initializers.values()):
                self._constant(value, INITIALIZER)
        for node in graph:
            if node.attributes.data and self._operators.has_graphs(node):
                for inner in subgraphs(node):
                    with self._nodes.scope(), self._constants.scope():
                        self._graph(inner)
            if node.op_type == "Constant" and constant_tensor(node.outputs[0]) is not None:
                if self._holds:
                    self._constant(node.outputs[0], CONSTANT)
            else:
                self._node(node)

    def _constant(self, value: ir.Value, rewrite: str) -> None:
        tensor, node = constant_tensor(value), value.producer()
        if tensor is None or value.meta or (node is None and value.is_graph_output()):
            return
        found = self._constants.find(value, constant_key(tensor), (sample_key, whole_key))
        if found is None or not self._may_stand_for(found, value) or not _take_over(value, found):
            return
        if node is None:
            drop_unused_initializer(value)
        else:
            remove_node(node)
        self.counts[rewrite] += 1

    def _node(self, node: ir.Node) -> None:
        operator = self._operators.of(node)
        if operator is None or node.device_configurations or not node.outputs:
            return
        found = self._equal(node, operator)
        if found is None:
            return
        pairs = list(zip(node.outputs, found.outputs, strict=True))
        if any(old.is_graph_output() and new.is_graph_output() for old, new in pairs):
            reason = f"it equals '{label(found)}', but both give outputs of the graph"
            self.declined.append(Declined.of(NODE, node, reason))
            return
        if all(self._may_stand_for(new, old) for old, new in pairs):
            for old, new in pairs:
                _take_over(old, new)
            remove_node(node)
            self.counts[NODE] += 1

    def _equal(self, node: ir.Node, operator: Operator) -> ir.Node | None:
        """The node before `node` that gives the same."""
        key = _key(node, node.inputs)
        attributes = partial(_attributes_key, operator=operator)
        if operator.commutes and len(node.inputs) == 2 and self._nodes.get(key) is None:
            other = self._nodes.get(_key(node, node.inputs[::-1]))
            if other is not None and attributes(other) == attributes(node):
                if self._may_swap(node, operator):
                    return other
                reason = f"it equals '{label(other)}' but for the NaN that two different NaNs give"
                self.declined.append(Declined.of(NODE, node, reason))
        graphs = (_graphs_key,) if operator.has_graphs else ()
        return self._nodes.find(node, key, (attributes, *graphs))

    def _may_swap(self, node: ir.Node, operator: Operator) -> bool:
        """Whether the two inputs of `node` may change places, to the bit.

        Where both are NaN, a floating-point operation hands on one of the two.
        """
        dtype = self._facts.dtype(node.inputs[0])
        if node.op_type == "Equal" or (dtype is not None and _is_exact(dtype)):
            return dtype is not None
        if operator.as_integers:
            return False
        return any(_is_never_nan(value) for value in node.inputs)

    def _may_stand_for(self, new: ir.Value, old: ir.Value) -> bool:
        """Whether `take_over(old, new)` succeeds, and no name comes to mean something else."""
        if old.is_graph_output():
            if new.is_graph_output() or new.producer() is None or new.graph is not old.graph:
                return False
            return not self._is_shadowed(old)
        return new.graph is old.graph or not self._is_shadowed(new)

    def _is_shadowed(self, value: ir.Value) -> bool:
        if self._shadowed is None:
            self._shadowed = _shadowed(self._root)
        return value.name in self._shadowed


def _is_exact(dtype: ir.DataType) -> bool:
    return bool(dtype.is_integer() or dtype == ir.DataType.BOOL)


def _is_never_nan(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and not np.isnan(tensor.numpy()).any()


def _key(node: ir.Node, inputs: Sequence[ir.Value | None]) -> Hashable:
    """What nodes that give the same share, attributes aside."""
    if inputs and inputs[-1] is None:
        inputs = inputs[: max((i for i, v in enumerate(inputs) if v is not None), default=-1) + 1]
    outputs = node.outputs
    present = True if len(outputs) == 1 else tuple(bool(value.name) for value in outputs)
    operation = (node.op_type, node.domain, node.overload) if node.domain else node.op_type
    return (operation, tuple(inputs), present)


def _attributes_key(node: ir.Node, operator: Operator) -> Hashable:
    """The attributes that are no defaults, of graphs only how long they are; one of its own if
    there is one that cannot be compared."""
    attributes: list[tuple[str, Hashable]] = []
    for name, attribute in sorted(node.attributes.data.items()):
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            attributes.append((name, len(attribute.as_graph())))
            continue
        key = attribute_key(attribute)
        if key is None:
            return node
        if operator.defaults.get(name) != key:
            attributes.append((name, key))
    return tuple(attributes)


def _graphs_key(node: ir.Node) -> Hashable:
    """The graphs in the attributes of `node`; one of their own for those that have no key."""
    keys = [graph_key(graph) for graph in subgraphs(node)]
    return node if None in keys else tuple(keys)


def _take_over(old: ir.Value, new: ir.Value) -> bool:
    """`take_over`, and `new` has a type and shape if `old` had."""
    type_, shape = old.type, old.shape
    if not take_over(old, new):
        return False
    if new.producer() is not None:
        new.type = new.type or type_
        new.shape = shape if new.shape is None else new.shape
    return True


def _shadowed(root: ir.Graph | ir.Function) -> set[str]:
    """The names that values of several graphs inside `root` have."""
    seen: set[str] = set()
    shadowed: set[str] = set()
    graphs: list[ir.Graph | ir.Function] = [root]
    while graphs:
        graph = graphs.pop()
        names = {value.name or "" for value in graph.inputs}
        if isinstance(graph, ir.Graph):
            names.update(graph.initializers)
        for node in graph:
            names.update(value.name or "" for value in node.outputs)
            if node.attributes:
                graphs.extend(subgraphs(node))
        shadowed |= names & seen
        seen |= names
    return shadowed - {""}
