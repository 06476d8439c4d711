"""Is this a valid model? Asked of onnx's own checker, without the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.external import is_external
from graphopt.ir.query import DEFAULT_DOMAINS, default_opset
from graphopt.ir.views import model_view, node_view, value_view, with_parts
from graphopt.ir.weights import WITHOUT_BYTES, Span, may_be_shape

LeftOut: TypeAlias = "Callable[[onnx.TensorProto], Span | None]"

# Small initializers stay: shape inference reads shapes, axes and the like from them.
SMALL_TENSOR_BYTES = 1024
# From here on a Constant can be a sparse tensor: zeros of any shape in a few bytes.
SPARSE_CONSTANTS_OPSET = 11


def check(model: ir.Model, *, where: str = "<model>") -> None:
    """Raises GraphoptError unless onnx.checker accepts the structure of `model`."""
    _check(skeleton_of_model(model, claims=False), where)


def check_proto(
    proto: onnx.ModelProto, *, where: str = "<ModelProto>", left_out: LeftOut | None = None
) -> None:
    """The same for a proto that has not become an `ir.Model` yet.

    Args:
        left_out: where the data of a tensor is, if not in the proto.
    """
    try:
        skeleton = _skeleton_of_proto(proto, left_out)
    except UnicodeDecodeError as error:
        raise GraphoptError(
            f"is not a valid ONNX model: a name in it is no text ({error})", where=where
        ) from None
    _check(skeleton, where)


def _check(skeleton: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(skeleton)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split("==> Context")[0].split())
        if "Field 'shape'" in reason and (names := _without_shape(skeleton.graph)):
            reason += f" It is missing of {names}."  # which onnx does not say
        raise GraphoptError(f"is not a valid ONNX model: {reason}", where=where) from None


def _without_shape(graph: onnx.GraphProto) -> str:
    values = (*graph.input, *graph.output)
    return ", ".join(f"'{v.name}'" for v in values if not v.type.tensor_type.HasField("shape"))


def skeleton_of_model(model: ir.Model, *, claims: bool = True) -> onnx.ModelProto:
    """`model` as a proto in which the main graph's large initializers are inputs without data.

    It is what the C++ checker and shape inference need, whatever the size of the weights. Its nodes
    are those of `model`, one for one; a large Constant among them is all zeros.

    Args:
        claims: with the types and shapes of the values in between, which the checker does not look
            at and which take half of the time.
    """
    graph = model.graph
    added, kept = [], []
    inputs = set(graph.inputs)
    for value in graph.initializers.values():
        tensor = value.const_value
        if value in inputs and tensor is not None:
            continue  # a default that a caller may override: its data proves nothing
        if tensor is not None and _is_large(tensor):
            shape, type_ = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            added.append(ir.Value(name=value.name, shape=shape, type=type_))
        else:
            kept.append(value_view(value, _in_memory))
    zeros = default_opset(model) >= SPARSE_CONSTANTS_OPSET
    large = {i for i, node in enumerate(graph) if zeros and _is_large_constant(node)}
    inner = _elsewhere if zeros else _in_memory
    nodes = [
        node_view(node, inner, _elsewhere if index in large else _in_memory)
        for index, node in enumerate(graph)
    ]
    inside = nodes if claims else []
    view = with_parts(graph, inputs=(*graph.inputs, *added), initializers=kept, nodes=inside)
    skeleton = ir.to_proto(model_view(model, view))
    for node in () if claims else nodes:
        ir.serde.serialize_node_into(skeleton.graph.node.add(), node)
    for index in large:
        _make_zeros(skeleton.graph.node[index].attribute[0])
    _make_zeros_in_subgraphs(skeleton)
    return skeleton


def _elsewhere(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
    """A reference in the place of a tensor that is to become zeros."""
    if not _is_large(tensor):
        return _in_memory(tensor)
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("", None, None, tensor.dtype, shape=shape, name=tensor.name or "")


def _is_large(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype in WITHOUT_BYTES or may_be_shape(tensor):
        return False
    return tensor.nbytes > SMALL_TENSOR_BYTES


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
    """A copy of external data, since a reference to it means nothing to the checker."""
    if not is_external(tensor):
        return None
    return ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _is_large_constant(node: ir.Node) -> bool:
    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
        return False
    attribute = node.attributes.get("value")
    if attribute is None or len(node.attributes) != 1 or attribute.is_ref():
        return False
    if attribute.type != ir.AttributeType.TENSOR:
        return False
    tensor = attribute.as_tensor()
    return _is_large(tensor)


def _make_zeros(attribute: onnx.AttributeProto) -> None:
    """Makes the tensor of a Constant node one of the same type and shape that takes no space."""
    dims, data_type = list(attribute.t.dims), attribute.t.data_type
    attribute.ClearField("t")
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    sparse = attribute.sparse_tensor
    sparse.dims.extend(dims)
    for part, kind in ((sparse.values, data_type), (sparse.indices, onnx.TensorProto.INT64)):
        part.name, part.data_type = "none", kind
        part.dims.append(0)


def _skeleton_of_proto(proto: onnx.ModelProto, left_out: LeftOut | None) -> onnx.ModelProto:
    graph = proto.graph
    small = [
        tensor
        for tensor in graph.initializer
        if _is_small(tensor) and (left_out is None or left_out(tensor) is None)
    ]
    skeleton = onnx.ModelProto(
        ir_version=proto.ir_version,
        opset_import=proto.opset_import,
        functions=proto.functions,
        metadata_props=proto.metadata_props,
        graph=onnx.GraphProto(
            name=graph.name,
            node=graph.node,
            input=graph.input,
            output=graph.output,
            value_info=graph.value_info,
            initializer=small,
            quantization_annotation=graph.quantization_annotation,
            metadata_props=graph.metadata_props,
        ),
    )
    known = {value.name for value in graph.input}
    known.update(tensor.name for tensor in small)
    for tensor in graph.initializer:
        if tensor.name not in known:
            skeleton.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    if left_out is not None:
        _fill_constants(skeleton, left_out)
    _make_zeros_in_subgraphs(skeleton)
    return skeleton


def _fill_constants(skeleton: onnx.ModelProto, left_out: LeftOut) -> None:
    """Gives the Constant nodes whose data was left out zeros, or their data where those cannot be
    stated without taking as much space."""
    zeros = _has_sparse_constants(skeleton)
    for node in skeleton.graph.node:
        if node.op_type != "Constant" or len(node.attribute) != 1:
            continue
        attribute = node.attribute[0]
        span = left_out(attribute.t)
        if span is None:
            continue
        if zeros:
            _make_zeros(attribute)
        else:
            attribute.t.raw_data = span.read().tobytes()


def _make_zeros_in_subgraphs(skeleton: onnx.ModelProto) -> None:
    """Makes the initializers of subgraphs that are elsewhere Constant nodes that are zeros.

    A subgraph cannot have more inputs than its operator gives it, and the checker looks for
    external data in the current folder.
    """
    if not _has_sparse_constants(skeleton):
        return
    for graph in graphs_of(skeleton.graph):
        if graph is skeleton.graph:
            continue
        external = onnx.TensorProto.EXTERNAL
        for index in reversed(range(len(graph.initializer))):
            tensor = graph.initializer[index]
            if tensor.data_location != external:
                continue
            node = onnx.NodeProto(op_type="Constant", output=[tensor.name])
            _make_zeros(node.attribute.add(name="value", t=tensor))
            graph.node.insert(0, node)
            del graph.initializer[index]


def _has_sparse_constants(proto: onnx.ModelProto) -> bool:
    domains = proto.opset_import
    opset = max((entry.version for entry in domains if entry.domain in DEFAULT_DOMAINS), default=1)
    return opset >= SPARSE_CONSTANTS_OPSET


def _is_small(tensor: onnx.TensorProto) -> bool:
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    return inside and tensor.ByteSize() <= SMALL_TENSOR_BYTES


# One of no stated type, as in files of IR version 1, may hold one too.
_WITH_GRAPHS = (
    onnx.AttributeProto.UNDEFINED,
    onnx.AttributeProto.GRAPH,
    onnx.AttributeProto.GRAPHS,
)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs in the attributes of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in _WITH_GRAPHS:
                for body in subgraphs_of(node):
                    yield from graphs_of(body)
                break


def subgraphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of `node`, in order."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
