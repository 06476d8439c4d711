"""Is this a valid model? Asked of onnx's own checker, without the weights."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

# Small initializers stay: shape inference reads shapes, axes and the like from them.
SMALL_TENSOR_BYTES = 1024


def check(model: ir.Model, *, where: str = "<model>") -> None:
    """Raises GraphoptError unless onnx.checker accepts the structure of `model`."""
    _check(skeleton_of_model(model), where)


def check_proto(proto: onnx.ModelProto, *, where: str = "<ModelProto>") -> None:
    """The same for a proto that has not become an `ir.Model` yet."""
    try:
        skeleton = _skeleton_of_proto(proto)
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
        raise GraphoptError(f"is not a valid ONNX model: {reason}", where=where) from None


def skeleton_of_model(model: ir.Model) -> onnx.ModelProto:
    """`model` as a proto in which the main graph's large initializers are inputs without data.

    It is what the C++ checker and shape inference need, whatever the size of the weights.
    """
    skeleton = model.clone()
    graph = skeleton.graph
    inputs = set(graph.inputs)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        if value in inputs:  # a default that a caller may override: its data proves nothing
            del graph.initializers[name]
            continue
        if tensor.nbytes <= SMALL_TENSOR_BYTES:
            if isinstance(tensor, ir.ExternalTensor):
                array = tensor.numpy().copy()  # no view: it would keep the file open
                value.const_value = ir.tensor(array, dtype=tensor.dtype, name=name)
            continue
        value.shape = ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        del graph.initializers[name]
        graph.inputs.append(value)
    return ir.to_proto(skeleton)


def _skeleton_of_proto(proto: onnx.ModelProto) -> onnx.ModelProto:
    graph = proto.graph
    small = [t for t in graph.initializer if _is_small(t)]
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
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if not _is_small(tensor) and tensor.name not in inputs:
            skeleton.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return skeleton


def _is_small(tensor: onnx.TensorProto) -> bool:
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    return inside and tensor.ByteSize() <= SMALL_TENSOR_BYTES


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and all graphs in the attributes of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g)
            for subgraph in attribute.graphs:
                yield from graphs_of(subgraph)
