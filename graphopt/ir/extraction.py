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
    return _part(model, model.graph.inputs, [], _found(model, names))


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
    cut = [value for value in _found(model, known) if not value.is_graph_input()]
    copy = _part(model, (), cut, _found(model, wanted))
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


def _found(model: ir.Model, names: Iterable[str]) -> list[ir.Value]:
    """The values of the main graph of those `names`, each once."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in values:
            raise GraphoptError(f"there is no value '{name}' in the main graph")
    return [values[name] for name in names]


def _part(
    model: ir.Model, inputs: Iterable[ir.Value], cut: list[ir.Value], wanted: list[ir.Value]
) -> ir.Model:
    """What computes `wanted` from `cut`, with `inputs` and what else it needs of the model's.

    Nothing else is copied, for a large model is looked at in many parts.
    """
    graph = model.graph
    nodes, values = _needed(graph, cut, wanted)
    kept = values | set(inputs)
    given = [v for v in cut if v in values and v.producer() not in nodes]
    view = ir.GraphView(
        [*(v for v in graph.inputs if v in kept), *given],
        wanted,
        nodes=[node for node in graph if node in nodes],
        initializers=[v for v in graph.initializers.values() if v in kept and v not in given],
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
) -> tuple[set[ir.Node], set[ir.Value]]:
    """The nodes that compute `wanted` from `cut`; what those read, and `wanted` itself."""
    known, nodes, values = set(cut), set[ir.Node](), set[ir.Value]()
    left = list(wanted)
    while left:
        value = left.pop()
        if value in values:
            continue
        values.add(value)
        node = value.producer()
        if node is None or node in nodes or value in known:
            continue
        nodes.add(node)
        left += [v for v in reads(node) if v.graph is graph]
    return nodes, values
