"""Copies of constant nodes that stand alone as a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import constant_tensor, static_shape

# ONNX Runtime takes and gives these as numpy arrays.
TYPES = frozenset(
    {
        ir.DataType.BOOL,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    }
)

# Old operators run the same under any IR version; this one is known since ONNX 1.16.
_IR_VERSION = 10

# Their first output holds at most the elements of their first input.
_NEVER_LARGER = frozenset({"Compress", "Reshape", "Slice", "Squeeze"})


@dataclass(frozen=True)
class Output:
    """What is known of a node's output before the node has run."""

    dtype: ir.DataType
    nbytes: int
    """An upper bound where `shape` is None."""
    shape: tuple[int, ...] | None


class Island:
    """A model made of copies of `nodes`, which are in topological order.

    Its values have new names (those of different subgraphs may collide); what the nodes use from
    elsewhere is held as initializers.

    Args:
        known: the arrays of the values that the nodes use, beside initializers and Constants.
    """

    def __init__(
        self, nodes: list[ir.Node], known: Mapping[ir.Value, np.ndarray], opset: int
    ) -> None:
        self._known = known
        self._copies: dict[ir.Value, ir.Value] = {}
        self._held: list[ir.Value] = []
        self._opset = max((_since(node, opset) for node in nodes), default=1)
        self._nodes = [self._copy(node, f"n{i}") for i, node in enumerate(nodes)]

    def model(self, outputs: Iterable[ir.Value] = ()) -> ir.Model:
        """The model; its outputs are the copies of `outputs`. To be called once."""
        graph = ir.Graph(
            [],
            [self._copies[value] for value in outputs],
            nodes=self._nodes,
            initializers=self._held,
            opset_imports={"": self._opset},
            name="constants",
        )
        return ir.Model(graph, ir_version=_IR_VERSION)

    def name(self, value: ir.Value) -> str:
        """The name of the copy of `value`."""
        return self._copies[value].name or ""

    def output(self, node: ir.Node, value: ir.Value) -> Output | None:
        """What shape inference has found out about `value`, an output of `node`.

        None if its type is not in TYPES, or nothing bounds its size.
        """
        copy = self._copies[value]
        if copy.dtype not in TYPES or not isinstance(copy.type, ir.TensorType):
            return None
        shape = static_shape(copy)
        if shape is not None:
            return Output(copy.dtype, math.prod(shape) * _item_bytes(copy.dtype), shape)
        bound = self._most_elements(node)
        return None if bound is None else Output(copy.dtype, bound * _item_bytes(copy.dtype), None)

    def _most_elements(self, node: ir.Node) -> int | None:
        source = node.inputs[0] if node.inputs else None
        shape = static_shape(self._copies[source]) if source is not None else None
        if shape is None or len(node.outputs) != 1:
            return None
        if node.op_type == "NonZero":
            return math.prod(shape) * max(len(shape), 1)
        return math.prod(shape) if node.op_type in _NEVER_LARGER else None

    def _copy(self, node: ir.Node, name: str) -> ir.Node:
        inputs = [None if value is None else self._input(value) for value in node.inputs]
        outputs = [self._fresh(value) for value in node.outputs]
        attributes = list(node.attributes.values())
        return ir.Node("", node.op_type, inputs, attributes, outputs=outputs, name=name)

    def _fresh(self, value: ir.Value) -> ir.Value:
        if not value.name:
            return ir.Value(name="")
        self._copies[value] = ir.Value(name=f"v{len(self._copies)}")
        return self._copies[value]

    def _input(self, value: ir.Value) -> ir.Value:
        if value not in self._copies:
            array = constant_value(value, self._known)
            if array is None:
                raise ValueError(f"value '{value.name}' is not constant")
            copy = self._fresh(value)
            copy.const_value = ir.Tensor(array, name=copy.name)
            copy.shape, copy.type = ir.Shape(array.shape), ir.TensorType(copy.const_value.dtype)
            self._held.append(copy)
        return self._copies[value]


def _item_bytes(dtype: ir.DataType) -> int:
    return int(dtype.itemsize)  # none of TYPES takes less than a byte


def constant_value(value: ir.Value, known: Mapping[ir.Value, np.ndarray]) -> np.ndarray | None:
    """The array of `value` if it is known or constant, and of one of TYPES."""
    if value in known:
        return known[value]
    tensor = constant_tensor(value)
    return tensor.numpy() if tensor is not None and tensor.dtype in TYPES else None


def constant_type(
    value: ir.Value, known: Mapping[ir.Value, np.ndarray]
) -> tuple[ir.DataType, int] | None:
    """The type and the bytes of what `constant_value` gives, without reading it."""
    if value in known:
        array = known[value]
        return ir.DataType.from_numpy(array.dtype), array.nbytes
    tensor = constant_tensor(value)
    return (tensor.dtype, tensor.nbytes) if tensor is not None and tensor.dtype in TYPES else None


def _since(node: ir.Node, opset: int) -> int:
    """The opset that defined this form of the operator.

    All nodes of a model with opset V mean the same in the newest of these: it is at most V, and
    none of them was redefined up to V. So a runtime need not know opset V itself.
    """
    since: int = onnx.defs.get_schema(node.op_type, opset, "").since_version
    return since
