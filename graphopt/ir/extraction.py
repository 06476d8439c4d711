"""A part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.query import reads


def tapped(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of `model` (sharing weights) whose outputs are exactly the values `names`.

    Nodes that those values do not need are left out; inputs are not. Values are of the main graph:
    inputs, outputs of nodes, or initializers.

    Raises:
        GraphoptError: if there is no such value.
    """
    return Parts(model).tapped(names)


def stretch(
    model: ir.Model,
    known: Sequence[str],
    wanted: Sequence[str],
    types: Mapping[str, ir.TypeProtocol] = MappingProxyType({}),
) -> ir.Model:
    """A copy of `model` (sharing weights) from the values `known` to the values `wanted`.

    Its inputs are those that it needs: of the values `known`, whose shapes are left open, and of
    the inputs of `model`.

    Args:
        types: those of known values; of others, what the model states.

    Raises:
        GraphoptError: if there is no such value.
    """
    return Parts(model).stretch(known, wanted, types)


class Parts:
    """Many parts of one model: each takes as long as what is in it, not as the model.

    Meanwhile the main graph keeps its nodes, in their order, and the names of what they give.
    Initializers may come, go and change, and nodes may read others: those are looked up each time.
    """

    def __init__(self, model: ir.Model) -> None:
        graph = model.graph
        self._model = model
        self._places = {node: place for place, node in enumerate(graph)}
        computed = (value for node in graph for value in node.outputs)
        self._values = {value.name: value for value in (*graph.inputs, *computed) if value.name}

    def tapped(self, names: Iterable[str]) -> ir.Model:
        """See `tapped`."""
        return self._part(self._model.graph.inputs, [], self._found(names))

    def stretch(
        self,
        known: Sequence[str],
        wanted: Sequence[str],
        types: Mapping[str, ir.TypeProtocol] = MappingProxyType({}),
    ) -> ir.Model:
        """See `stretch`."""
        cut = [value for value in self._found(known) if not value.is_graph_input()]
        copy = self._part((), cut, self._found(wanted))
        values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
        for value in cut:
            name = str(value.name)
            given = values.get(name)
            if given is None or not (given.uses() or given.is_graph_output()):
                continue
            if given.producer() is not None:  # which gives something else that is needed
                given.name = f"{name} (computed)"
                old, given = given, ir.Value(name=name, type=given.type)
                old.replace_all_uses_with(given, replace_graph_outputs=True)
                copy.graph.inputs.append(given)
            given.type = types.get(name, given.type)
            given.shape = given.const_value = None
        return copy

    def _found(self, names: Iterable[str]) -> list[ir.Value]:
        """The values of the main graph of those `names`, each once."""
        found = []
        for name in dict.fromkeys(names):
            value = self._values.get(name, self._model.graph.initializers.get(name))
            if value is None:
                raise GraphoptError(f"there is no value '{name}' in the main graph")
            found.append(value)
        return found

    def _part(
        self, inputs: Iterable[ir.Value], cut: list[ir.Value], wanted: list[ir.Value]
    ) -> ir.Model:
        """What computes `wanted` from `cut`, with `inputs` and what else it needs of the model's.

        Nothing else is copied, for a large model is looked at in many parts.
        """
        model, graph = self._model, self._model.graph
        nodes, values = _needed(graph, cut, wanted)
        kept = {**values, **dict.fromkeys(inputs)}
        given = {v: None for v in cut if v in values and v.producer() not in nodes}
        view = ir.GraphView(
            [*(v for v in graph.inputs if v in kept), *given],
            wanted,
            nodes=sorted(nodes, key=self._places.__getitem__),
            initializers=[v for v in kept if v.is_initializer() and v not in given],
            opset_imports=graph.opset_imports,
            name=graph.name,
        )
        return ir.Model(
            view.clone(),
            ir_version=model.ir_version,
            functions=[function.clone() for function in model.functions.values()],
        )


def _needed(
    graph: ir.Graph, cut: list[ir.Value], wanted: list[ir.Value]
) -> tuple[set[ir.Node], dict[ir.Value, None]]:
    """The nodes that compute `wanted` from `cut`; `wanted` and what those read, as it is found."""
    known, nodes, values = set(cut), set[ir.Node](), dict[ir.Value, None]()
    left = list(wanted)
    while left:
        value = left.pop()
        if value in values:
            continue
        values[value] = None
        node = value.producer()
        if node is None or node in nodes or value in known:
            continue
        nodes.add(node)
        left += [v for v in reads(node) if v.graph is graph]
    return nodes, values
