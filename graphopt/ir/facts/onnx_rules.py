"""Shapes by onnx's own inference, one node at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir.facts.dimension import Dim, Expr
from graphopt.ir.facts.fact import Fact, Operation
from graphopt.ir.query import constant_tensor

# Shape inference reads shapes, axes and the like from them; more is not worth copying.
_SMALL_BYTES = 1024

_REFUSED = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
    ValueError,
)


class OnnxRules:
    """onnx's shape inference for nodes of the default domain at version `opset`."""

    def __init__(self, opset: int, unknown: Callable[[], Expr]) -> None:
        self._opset = opset
        self._unknown = unknown
        self._imports = [onnx.helper.make_opsetid("", opset)]
        self._schemas: dict[str, onnx.defs.OpSchema | None] = {}

    def infer(self, operation: Operation) -> list[Fact] | None:
        """The facts of the node's outputs; None if onnx cannot tell."""
        schema = self._schema(operation.node.op_type)
        if schema is None or _is_wrong(operation):
            return None
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        names: dict[str, Expr] = {}
        for value, fact in zip(operation.node.inputs, operation.facts, strict=True):
            if value is None or value.name in types:
                continue
            if fact.dtype is None:
                return None
            types[str(value.name)] = _type(fact, names)
            tensor = _tensor(value, fact)
            if tensor is not None:
                data[str(value.name)] = tensor
        try:
            proto = ir.serde.serialize_node(operation.node)  # `to_proto` asks Protocols: slow
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=self._imports
            )
        except _REFUSED:
            return None
        return [self._fact(found.get(value.name or ""), names) for value in operation.node.outputs]

    def _schema(self, op_type: str) -> onnx.defs.OpSchema | None:
        if op_type not in self._schemas:
            try:
                schema = onnx.defs.get_schema(op_type, self._opset, "")
            except onnx.defs.SchemaError:
                schema = None
            self._schemas[op_type] = schema
        return self._schemas[op_type]

    def _fact(self, found: onnx.TypeProto | None, names: dict[str, Expr]) -> Fact:
        if found is None or not found.HasField("tensor_type"):
            return Fact()
        dtype = ir.DataType(found.tensor_type.elem_type) if found.tensor_type.elem_type else None
        if not found.tensor_type.HasField("shape"):
            return Fact(dtype)
        return Fact(dtype, tuple(self._dim(dim, names) for dim in found.tensor_type.shape.dim))

    def _dim(self, dim: onnx.TensorShapeProto.Dimension, names: dict[str, Expr]) -> Dim:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        if dim.dim_param in names:
            return names[dim.dim_param]
        return self._unknown()


def _is_wrong(operation: Operation) -> bool:
    """Whether onnx is known to infer what is not so.

    It takes a symbolic dimension for 0 in Attention, and the default of `onesided` in STFT for 0.
    """
    if operation.node.op_type == "Attention":
        return any(fact.static_dims is None for fact in operation.facts if fact.dims is not None)
    return operation.node.op_type == "STFT"


def _type(fact: Fact, names: dict[str, Expr]) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    tensor = proto.tensor_type
    tensor.elem_type = int(fact.dtype or 0)
    if fact.dims is not None:
        shape = tensor.shape
        shape.SetInParent()
        for dim in fact.dims:
            if isinstance(dim, int):
                shape.dim.add().dim_value = dim
            else:
                text = str(dim)
                names[text] = dim
                shape.dim.add().dim_param = text
    return proto


def _tensor(value: ir.Value, fact: Fact) -> onnx.TensorProto | None:
    array: np.ndarray | None = fact.array()
    if array is None:
        tensor = constant_tensor(value)
        if tensor is None or tensor.nbytes > _SMALL_BYTES or tensor.dtype == ir.DataType.STRING:
            return None
        array = tensor.numpy()
    return onnx.numpy_helper.from_array(array)
