"""Is this a valid model? Asked of onnx's own checker, without the weights."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

# Small initializers stay in the skeleton: shape inference reads shapes, axes and the like.
SKELETON_TENSOR_BYTES = 1024


def check(model: ir.Model, *, where: str = "<model>") -> None:
    """Raises GraphoptError unless onnx.checker accepts the structure of `model`."""
    try:
        onnx.checker.check_model(skeleton_proto(model))
    except (onnx.checker.ValidationError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise GraphoptError(f"is not a valid ONNX model: {first}", where=where) from None


def skeleton_proto(model: ir.Model) -> onnx.ModelProto:
    """`model` as a proto in which the main graph's large initializers are inputs without data.

    It is what the C++ checker and shape inference need, whatever the size of the weights.
    """
    skeleton = model.clone()
    graph = skeleton.graph
    inputs = set(graph.inputs)
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SKELETON_TENSOR_BYTES:
            continue
        value.shape = ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        del graph.initializers[name]
        if value not in inputs:
            graph.inputs.append(value)
    return ir.to_proto(skeleton)
