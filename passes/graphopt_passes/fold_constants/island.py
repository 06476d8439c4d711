"""Copies of constant nodes that stand alone as a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.ir.facts import Facts
from graphopt_passes.fold_constants.moves import MOVES

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

# Smaller constants are initializers of the model, where shape inference sees them; larger ones are
# fed, which copies nothing.
_FED_BYTES = 1024

# Their first output holds at most the elements of their first input.
_NEVER_LARGER = frozenset({"Compress", "Reshape", "Slice", "Squeeze"})


@dataclass(frozen=True)
class Output:
    """What is known of a node's output before the node has run."""

    dtype: ir.DataType
    nbytes: int
    """An upper bound where the shape is not known."""


def output_of(node: ir.Node, value: ir.Value, facts: Facts) -> Output | None:
    """What `facts` tell of `value`, an output of the constant `node`.

    None if it cannot be evaluated for its type, or nothing bounds its size.
    """
    fact = facts[value]
    if fact.dtype is None or (fact.dtype not in TYPES and node.op_type not in MOVES):
        return None
    shape = fact.static_dims
    count = _most_elements(node, facts) if shape is None else math.prod(shape)
    return None if count is None else Output(fact.dtype, math.ceil(count * fact.dtype.itemsize))


def _most_elements(node: ir.Node, facts: Facts) -> int | None:
    shape = facts[node.inputs[0]].static_dims if node.inputs else None
    if shape is None or len(node.outputs) != 1:
        return None
    if node.op_type == "NonZero":
        return math.prod(shape) * max(len(shape), 1)
    return math.prod(shape) if node.op_type in _NEVER_LARGER else None


class Island:
    """A model made of copies of `nodes`, which are in topological order.

    Its values have new names (those of different subgraphs may collide); what the nodes use from
    elsewhere is held as initializers, or in `feed`.

    Args:
        known: the arrays of the values that the nodes use, beside initializers and Constants.
    """

    def __init__(
        self, nodes: list[ir.Node], known: Mapping[ir.Value, np.ndarray], opset: int
    ) -> None:
        self._known = known
        self._copies: dict[ir.Value, ir.Value] = {}
        self._held: list[ir.Value] = []
        self._fed: list[ir.Value] = []
        self.feed: dict[str, np.ndarray] = {}
        """The inputs of the model."""
        self._opset = max((_since(node, opset) for node in nodes), default=1)
        self._nodes = [self._copy(node, f"n{i}") for i, node in enumerate(nodes)]

    def model(self, outputs: Iterable[ir.Value]) -> ir.Model:
        """The model; its outputs are the copies of `outputs`. To be called once."""
        graph = ir.Graph(
            self._fed,
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
            copy.shape = ir.Shape(array.shape)
            copy.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            if array.nbytes > _FED_BYTES:
                self._fed.append(copy)
                self.feed[str(copy.name)] = array
            else:
                copy.const_value = ir.Tensor(array, name=copy.name)
                self._held.append(copy)
        return self._copies[value]


def constant_value(value: ir.Value, known: Mapping[ir.Value, np.ndarray]) -> np.ndarray | None:
    """The array of `value` if it is known or constant; None for strings."""
    if value in known:
        return known[value]
    tensor = constant_tensor(value)
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.numpy()


def constant_type(
    value: ir.Value, known: Mapping[ir.Value, np.ndarray]
) -> tuple[ir.DataType, int] | None:
    """The type and the bytes of what `constant_value` gives, without reading it."""
    if value in known:
        array = known[value]
        return ir.DataType.from_numpy(array.dtype), array.nbytes
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.dtype, tensor.nbytes


def _since(node: ir.Node, opset: int) -> int:
    """The opset that defined this form of the operator.

    All nodes of a model with opset V mean the same in the newest of these: it is at most V, and
    none of them was redefined up to V. So a runtime need not know opset V itself.
    """
    since: int = onnx.defs.get_schema(node.op_type, opset, "").since_version
    return since
