"""Questions that passes ask of a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

DEFAULT_DOMAINS = ("", "ai.onnx")
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of `model`: main graph, subgraphs at any depth, and functions."""
    yield from walk(model.graph)
    for function in model.functions.values():
        yield from walk(function)


def walk(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """Every node of `graph`, each ahead of those in its subgraphs.

    As onnx_ir's RecursiveGraphIterator, in a quarter of the time: passes do little else.
    """
    for node in graph:
        yield node
        for attribute in node.attributes.data.values():
            if attribute.type in _GRAPHS:
                for inner in subgraphs(node):
                    yield from walk(inner)
                break


def all_graphs(model: ir.Model) -> list[ir.Graph]:
    """Every graph of `model`: the main graph and the subgraphs in it, at any depth.

    As onnx_ir's `Model.graphs`, in a tenth of the time.
    """
    graphs = [model.graph]
    for graph in graphs:
        for node in graph:
            for attribute in node.attributes.data.values():
                if attribute.type in _GRAPHS:
                    graphs.extend(subgraphs(node))
                    break
    return graphs


def count_nodes(model: ir.Model) -> int:
    return sum(1 for _ in nodes_of(model))


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether `node` is one of `op_types` of the default ONNX domain, and not a function of it."""
    return node.op_type in op_types and node.domain in DEFAULT_DOMAINS


def replaced_operators(model: ir.Model) -> frozenset[str]:
    """The operators of the default ONNX domain that a function of `model` defines anew."""
    return frozenset(name for domain, name, _ in model.functions if domain in DEFAULT_DOMAINS)


def default_opset(model: ir.Model) -> int:
    """The version of the default ONNX domain that the main graph imports; 1 if none is stated."""
    return next((v for d, v in model.opset_imports.items() if d in DEFAULT_DOMAINS), 1)


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that `value` always holds, or None.

    It is an initializer that no caller can override (one that is also a graph input is a default,
    not a constant), or the output of a Constant node.
    """
    if value is None:
        return None
    node = value.producer()
    if node is None:
        held = value.is_initializer() and not value.is_graph_input()
        return value.const_value if held else None
    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
        return None
    attributes = node.attributes.data  # a UserDict, whose own methods are slow
    return _attribute_tensor(*next(iter(attributes.items()))) if len(attributes) == 1 else None


def _attribute_tensor(name: str, attribute: ir.Attr) -> ir.TensorProtocol | None:
    """What a Constant node holds; None for a sparse tensor or a function's parameter.

    Not `onnx_ir.convenience.get_const_tensor`: that renames the tensor in the node, and a query
    must leave the model's bytes alone.
    """
    if attribute.is_ref():
        return None
    if name == "value":  # not `as_tensor`, whose check against a Protocol takes 100 us
        tensor: ir.TensorProtocol = attribute.value
        return tensor
    if name in ("value_int", "value_ints"):
        return ir.Tensor(np.array(attribute.value, dtype=np.int64))
    if name in ("value_float", "value_floats"):
        return ir.Tensor(np.array(attribute.value, dtype=np.float32))
    if name in ("value_string", "value_strings"):
        texts = [attribute.value] if name == "value_string" else attribute.value
        encoded = [text.encode() if isinstance(text, str) else bytes(text) for text in texts]
        shape = [] if name == "value_string" else [len(encoded)]
        return ir.StringTensor(encoded, shape=ir.Shape(shape))
    return None


def dims_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The shape of `tensor`, of which onnx_ir asks each time whether it is all numbers."""
    return tensor.shape.dims  # type: ignore[return-value]  # a tensor's is


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """`constant_tensor` as a numpy array (ml_dtypes for the types that numpy lacks)."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def label(node: ir.Node) -> str:
    """What to call `node` in a message: its name, or that of its first output."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or "?"


def sole_use(value: ir.Value) -> ir.Node | None:
    """The node that uses `value`, if it is used exactly once and is no graph's output.

    A use inside a subgraph counts as a use.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of `value` if every dimension is a known number."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    if not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(int(dim) for dim in dims)  # type: ignore[arg-type]


def rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in the attributes of `node`, such as the branches of an If."""
    for attribute in node.attributes.data.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What `node` reads, and what the nodes and outputs of its subgraphs do."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        yield from graph.outputs
        for inner in graph:
            yield from reads(inner)


def main_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs that a caller must feed: those without a default value."""
    return [value for value in model.graph.inputs if not value.is_initializer()]
