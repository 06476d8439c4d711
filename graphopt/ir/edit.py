"""Changes that passes make to a model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir.query import all_graphs, dims_of, nodes_of, subgraphs

# The first IR version in which an initializer need not be a graph input as well.
INITIALIZERS_WITHOUT_INPUTS = 4


class Names:
    """Gives names that no value and no node of the model has. Make one per run of a pass."""

    def __init__(self, model: ir.Model) -> None:
        self._taken = _names(model)

    def fresh(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... if that is taken; the result is taken from now on."""
        name, number = base, 0
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


def _names(model: ir.Model) -> set[str | None]:
    names: set[str | None] = {""}
    for graph in all_graphs(model):
        names.update([value.name for value in graph.inputs])
        names.update([value.name for value in graph.initializers.data.values()])
    for function in model.functions.values():
        names.update([value.name for value in function.inputs])
    for node in nodes_of(model):
        names.add(node.name)
        names.update([value.name for value in node.outputs])
    return names


def add_initializer(graph: ir.Graph, name: str, data: np.ndarray | ir.TensorProtocol) -> ir.Value:
    """Adds an initializer to `graph`; `name` must be free (see `Names`)."""
    tensor = ir.Tensor(data, name=name) if isinstance(data, np.ndarray) else _named(data, name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(dims_of(tensor)),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _named(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """`tensor` under `name`. It is not renamed itself: copies of a model share their tensors."""
    if tensor.name == name:
        return tensor
    return ir.LazyTensor(
        lambda: tensor, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
    )


def add_constant(
    model: ir.Model, name: str, data: np.ndarray | ir.TensorProtocol, before: ir.Node
) -> ir.Value:
    """Adds a constant that `before` and the nodes after it can use.

    It is an initializer of the graph of `before`, or, in a function and where IR version 3 and
    older would have every initializer be a graph input too, the output of a Constant node just
    ahead of `before`.
    `name` must be free (see `Names`).
    """
    graph = before.graph
    if graph is None:
        raise ValueError(f"node '{before.name}' is not in a graph")
    # The nodes of a function are in an ir.Graph as well, the initializers of which are not saved.
    in_function = any(function.graph is graph for function in model.functions.values())
    if not in_function and model.ir_version >= INITIALIZERS_WITHOUT_INPUTS:
        return add_initializer(graph, name, data)
    tensor = ir.Tensor(data, name=name) if isinstance(data, np.ndarray) else data
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
    )
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], outputs=[value], name=name)
    graph.insert_before(before, node)
    return value


def drop_unused_initializer(value: ir.Value | None) -> None:
    """Removes `value` from its graph if it is an initializer that nothing refers to any more."""
    if value is None or value.name is None or not value.is_initializer() or value.uses():
        return
    if value.is_graph_output() or value.is_graph_input() or value.graph is None:
        return
    del value.graph.initializers[value.name]


def take_over(old: ir.Value, new: ir.Value) -> bool:
    """Makes every use of `old` a use of `new`; whether it could.

    If `old` is a graph output, `new` becomes that output under the old name: the caller's
    interface stays. That cannot be done if `new` is an input, an initializer, itself an output,
    or lives in another graph; then nothing is changed.
    """
    if old.is_graph_output():
        if new.is_graph_output() or new.producer() is None or new.graph is not old.graph:
            return False
        name, new.type = old.name, old.type or new.type
        new.shape = new.shape if old.shape is None else old.shape  # that of a scalar is falsy
        new.metadata_props.update(old.metadata_props)
        new.doc_string = old.doc_string or new.doc_string
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        new.name = name
        return True
    old.replace_all_uses_with(new)
    return True


def remove_node(node: ir.Node) -> None:
    """Removes `node`, whose outputs nothing uses, with all uses that its subgraphs make of values.

    `onnx_ir.Graph.remove` leaves those, and a value would go on to look used.
    """
    if node.graph is None:
        raise ValueError(f"node '{node.name}' is in no graph")
    node.graph.remove(node, safe=True)
    for graph in subgraphs(node):
        for inner in ir.traversal.RecursiveGraphIterator(graph):
            for index, value in enumerate(inner.inputs):
                if value is not None:
                    inner.replace_input_with(index, None)
