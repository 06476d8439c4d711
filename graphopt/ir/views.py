"""Views of a model in which some tensors are others, to be serialized: nothing is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import onnx_ir as ir

Replace: TypeAlias = "Callable[[ir.TensorProtocol], TensorView | ir.TensorProtocol | None]"
"""What a tensor gives way to; None if it stays."""


@dataclass
class TensorView:
    """What `onnx_ir` asks of a tensor that it serializes, with other bytes."""

    name: str | None
    doc_string: str | None
    dtype: ir.DataType
    shape: Any
    metadata_props: Mapping[str, str]
    content: bytes

    @classmethod
    def of(cls, tensor: ir.TensorProtocol, content: bytes) -> TensorView:
        """`tensor` with other bytes."""
        return cls(
            tensor.name,
            tensor.doc_string,
            tensor.dtype,
            tensor.shape,
            tensor.metadata_props,
            content,
        )

    def tobytes(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class _InitializerView:
    """What `onnx_ir` asks of an initializer that it serializes, with another tensor."""

    value: ir.Value
    const_value: ir.TensorProtocol | TensorView

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value, name)


@dataclass(frozen=True)
class _NodeView:
    """What `onnx_ir` asks of a node that it serializes, with other attributes."""

    node: ir.Node
    attributes: Mapping[str, ir.Attr]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)


def model_view(model: ir.Model, graph: ir.GraphView) -> ir.Model:
    """`model` with another main graph."""
    return ir.Model(
        cast(ir.Graph, graph),  # onnx_ir documents a view here, to be serialized
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=list(model.functions.values()),
        metadata_props=model.metadata_props,
        device_configurations=model.device_configurations,
    )


def graph_view(graph: ir.Graph, initializers: Replace, constants: Replace) -> ir.GraphView:
    """`graph` with other tensors, subgraphs included.

    Args:
        initializers: asked for each initializer.
        constants: asked for each tensor in an attribute.
    """
    return with_parts(
        graph,
        inputs=graph.inputs,
        initializers=[value_view(v, initializers) for v in graph.initializers.values()],
        nodes=[node_view(node, initializers, constants) for node in graph],
    )


def with_parts(
    graph: ir.Graph,
    *,
    inputs: Iterable[ir.Value],
    initializers: Iterable[ir.Value],
    nodes: Iterable[ir.Node],
) -> ir.GraphView:
    return ir.GraphView(
        tuple(inputs),
        graph.outputs,
        nodes=nodes,
        initializers=tuple(initializers),
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )


def value_view(value: ir.Value, replace: Replace) -> ir.Value:
    """`value`, an initializer, with another tensor; itself if it stays."""
    tensor = value.const_value
    new = None if tensor is None else replace(tensor)
    return value if new is None else cast(ir.Value, _InitializerView(value, new))


def node_view(node: ir.Node, initializers: Replace, constants: Replace) -> ir.Node:
    """`node` with other tensors in its attributes; itself if all stay."""
    changed: dict[str, ir.Attr] = {}
    for name, attribute in node.attributes.items():
        view = _attribute_view(attribute, initializers, constants)
        if view is not attribute:
            changed[name] = view
    if not changed:
        return node
    return cast(ir.Node, _NodeView(node, {**node.attributes, **changed}))


def _attribute_view(attribute: ir.Attr, initializers: Replace, constants: Replace) -> ir.Attr:
    kinds = ir.AttributeType
    kind, value = attribute.type, attribute.value
    if kind not in _WITH_TENSORS or attribute.is_ref() or value is None:
        return attribute
    if kind == kinds.TENSOR:
        new: Any = constants(value)
        if new is None:
            return attribute
    elif kind == kinds.TENSORS:
        new = [tensor if (t := constants(tensor)) is None else t for tensor in value]
    elif kind == kinds.GRAPH:
        new = graph_view(value, initializers, constants)
    else:
        new = [graph_view(graph, initializers, constants) for graph in value]
    return ir.Attr(attribute.name, kind, new, doc_string=attribute.doc_string)


_WITH_TENSORS = {
    ir.AttributeType.TENSOR,
    ir.AttributeType.TENSORS,
    ir.AttributeType.GRAPH,
    ir.AttributeType.GRAPHS,
}
