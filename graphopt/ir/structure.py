"""Structural equality: keys that are the same exactly for attributes, tensors and graphs that are.

To the bit: 0.0 is not -0.0, and one NaN is not another.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Hashable

import onnx_ir as ir

# What is longer is kept as a digest.
_WHOLE_BYTES = 256


def attribute_key(attribute: ir.Attr) -> Hashable | None:
    """The key of an attribute without its name; None if it has none, such as a type's.

    A reference to a function's parameter is equal to another one. Graphs have `graph_key`.
    """
    if attribute.is_ref():
        return ("reference", attribute.ref_attr_name, attribute.type)
    kind, value = attribute.type, attribute.value
    if kind in (ir.AttributeType.INT, ir.AttributeType.STRING):
        return (kind, value)
    if kind in (ir.AttributeType.INTS, ir.AttributeType.STRINGS):
        return (kind, tuple(value))
    if kind == ir.AttributeType.FLOAT:
        return (kind, struct.pack("<d", value))
    if kind == ir.AttributeType.FLOATS:
        return (kind, struct.pack(f"<{len(value)}d", *value))
    if kind == ir.AttributeType.TENSOR:
        return (kind, tensor_key(value))
    return None


def tensor_key(tensor: ir.TensorProtocol) -> Hashable:
    """The key of type, shape and contents."""
    return (tensor.dtype, tuple(tensor.shape.numpy()), contents_key(tensor))


def contents_key(tensor: ir.TensorProtocol) -> Hashable:
    """The key of the contents among tensors of one type and shape."""
    if tensor.dtype == ir.DataType.STRING:
        return tuple(tensor.numpy().reshape(-1).tolist())
    contents = tensor.tobytes()
    return contents if len(contents) <= _WHOLE_BYTES else hashlib.sha256(contents).digest()


def graph_key(graph: ir.Graph) -> Hashable | None:
    """The key of a subgraph: what it computes from which values of enclosing graphs, and how.

    Names do not count. None if a node has an attribute without a key.
    """
    return _graph_key(graph, {})


def _graph_key(graph: ir.Graph, numbers: dict[ir.Value, int]) -> Hashable | None:
    """Values inside are known by their `numbers`, those of enclosing graphs by themselves."""
    for value in (*graph.inputs, *graph.initializers.values()):
        numbers.setdefault(value, len(numbers))
    held = []
    for value in graph.initializers.values():
        if value.const_value is None:
            return None
        held.append(tensor_key(value.const_value))
    nodes = []
    for node in graph:
        attributes = _attributes_key(node, numbers)
        if attributes is None:
            return None
        inputs = tuple(numbers.get(value, value) if value else None for value in node.inputs)
        for value in node.outputs:
            numbers.setdefault(value, len(numbers))
        present = tuple(bool(value.name) for value in node.outputs)
        nodes.append((node.domain, node.op_type, node.overload, inputs, attributes, present))
    inputs_key = tuple((str(value.type), str(value.shape)) for value in graph.inputs)
    outputs = tuple(numbers.get(value, value) for value in graph.outputs)
    return (inputs_key, tuple(held), tuple(nodes), outputs)


def _attributes_key(node: ir.Node, numbers: dict[ir.Value, int]) -> Hashable | None:
    keys = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref():
            key = attribute_key(attribute)
        elif attribute.type == ir.AttributeType.GRAPH:
            key = _graph_key(attribute.as_graph(), numbers)
        else:
            key = attribute_key(attribute)
        if key is None:
            return None
        keys.append((name, key))
    return tuple(keys)
