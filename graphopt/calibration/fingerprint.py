"""Telling one model's tensors from another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from graphopt.ir import nodes_of


def fingerprint(model: ir.Model) -> str:
    """The SHA-256, in hexadecimal, of what gives the tensors of `model` their names and values.

    That is its inputs, its nodes with their attributes, and its weights; not what describes it:
    the names of nodes and dimensions, documentation, metadata, inferred shapes.
    """
    digest = hashlib.sha256()
    for part in _parts(model):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(model: ir.Model) -> Iterator[bytes]:
    yield from _graph(model.graph)
    for function in model.functions.values():
        yield str(function.identifier()).encode()
        yield from _names(function.inputs)
    for node in nodes_of(model):
        yield f"{node.domain} {node.op_type} {node.overload}".encode()
        yield from _names(node.inputs)
        yield from _names(node.outputs)
        for name, attribute in sorted(node.attributes.items()):
            yield name.encode()
            yield from _attribute(attribute)


def _graph(graph: ir.Graph) -> Iterator[bytes]:
    yield from _names(graph.inputs)
    yield from _names(graph.outputs)
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            yield name.encode()
            yield from _tensor(value.const_value)


def _names(values: Iterable[ir.Value | None]) -> Iterator[bytes]:
    yield "\n".join("" if value is None else str(value.name) for value in values).encode()


def _attribute(attribute: ir.Attr) -> Iterator[bytes]:
    if attribute.is_ref():
        yield f"of the function: {attribute.ref_attr_name}".encode()
    elif attribute.type == ir.AttributeType.TENSOR:
        yield from _tensor(attribute.as_tensor())
    elif attribute.type == ir.AttributeType.TENSORS:
        for tensor in attribute.as_tensors():
            yield from _tensor(tensor)
    elif attribute.type == ir.AttributeType.GRAPH:
        yield from _graph(attribute.as_graph())
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in attribute.as_graphs():
            yield from _graph(graph)
    else:
        yield repr(attribute.value).encode()


def _tensor(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    yield f"{tensor.dtype.name} {tensor.shape.numpy()}".encode()
    if tensor.dtype == ir.DataType.STRING:
        yield repr(tensor.numpy().tolist()).encode()
    else:
        yield tensor.tobytes()
