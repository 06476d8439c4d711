"""Integer arithmetic on shapes, as far as it can be done without the inputs.

A `Partial` is a small integer tensor of which some elements are known, and others are known to be
a certain dimension. Whatever is not in the table below is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor, is_standard, subgraphs
from graphopt_passes.fold_constants.dims import Dims

Item: TypeAlias = "int | str | None"
"""A number, the name of a dimension (see `dims`), or None for anything at all."""

MAX_ITEMS = 64

_RANGES = {
    ir.DataType.INT64: (-(2**63), 2**63 - 1),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
    ir.DataType.BOOL: (0, 1),
}


@dataclass(frozen=True)
class Partial:
    """An int64, int32 or bool tensor of rank 0 (one item) or 1, partly known."""

    dtype: ir.DataType
    rank: int
    items: tuple[Item, ...]

    def array(self) -> np.ndarray | None:
        """The tensor, if all of it is known."""
        known = [item for item in self.items if isinstance(item, int)]
        if len(known) != len(self.items):
            return None
        return np.array(known, self.dtype.numpy()).reshape([len(known)] if self.rank else [])

    def ints(self) -> list[int] | None:
        """The elements, if all of them are known."""
        array = self.array()
        return None if array is None else [int(x) for x in array.reshape(-1)]


@dataclass(frozen=True)
class Operation:
    """A node with what is known of its inputs."""

    node: ir.Node
    opset: int
    inputs: Sequence[Partial | None]
    dims: Mapping[ir.Value, Dims]

    def input(self, index: int) -> Partial | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def has_input(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def ints(self, index: int, attribute: str, since: int) -> list[int] | None:
        """A list of integers that became input `index` in opset `since`; None if not known.

        Empty if it is left out.
        """
        if self.opset < since:
            return list(self.node.attributes.get_ints(attribute, ()))
        if not self.has_input(index):
            return []
        given = self.input(index)
        return None if given is None else given.ints()


def evaluate(
    graph: ir.Graph, opset: int, dims: Mapping[ir.Value, Dims], overridden: frozenset[str]
) -> dict[ir.Value, Partial]:
    """What is known of the small integer tensors of `graph` and its subgraphs.

    Args:
        opset: the version of the default domain.
        dims: the shapes that are known.
        overridden: operators of the default domain that a function of the model replaces.
    """
    known: dict[ir.Value, Partial] = {}
    for node in _nodes(graph):
        rule = _RULES.get(node.op_type)
        if rule is None or not is_standard(node, node.op_type) or node.op_type in overridden:
            continue
        if len(node.outputs) != 1 or any(a.is_ref() for a in node.attributes.values()):
            continue
        inputs = [_look_up(value, known) for value in node.inputs]
        result = rule(Operation(node, opset, inputs, dims))
        if result is not None and len(result.items) <= MAX_ITEMS:
            known[node.outputs[0]] = result
    return known


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _look_up(value: ir.Value | None, known: dict[ir.Value, Partial]) -> Partial | None:
    if value is None:
        return None
    if value in known:
        return known[value]
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in _RANGES:
        return None
    if len(tensor.shape) > 1 or tensor.size > MAX_ITEMS:
        return None
    items = tuple(int(x) for x in tensor.numpy().reshape(-1))
    known[value] = Partial(tensor.dtype, len(tensor.shape), items)
    return known[value]


def _shape(op: Operation) -> Partial | None:
    value = op.node.inputs[0]
    dims = op.dims.get(value) if value is not None else None
    if dims is None:
        return None
    attributes = op.node.attributes
    start = attributes.get_int("start", 0) if op.opset >= 15 else 0
    end = attributes.get_int("end", len(dims)) if op.opset >= 15 else len(dims)
    return Partial(ir.DataType.INT64, 1, dims[slice(start, end)])


def _size(op: Operation) -> Partial | None:
    value = op.node.inputs[0]
    dims = op.dims.get(value) if value is not None else None
    if dims is None:
        return None
    known = [dim for dim in dims if isinstance(dim, int)]
    if len(known) != len(dims):
        return None
    return Partial(ir.DataType.INT64, 0, (_fit(math.prod(known), ir.DataType.INT64),))


def _gather(op: Operation) -> Partial | None:
    data, indices = op.input(0), op.input(1)
    if data is None or indices is None or data.rank != 1:
        return None
    chosen, count = indices.ints(), len(data.items)
    if chosen is None or not all(-count <= i < count for i in chosen):
        return None
    return Partial(data.dtype, indices.rank, tuple(data.items[i] for i in chosen))


def _slice(op: Operation) -> Partial | None:
    data = op.input(0)
    starts, ends = op.ints(1, "starts", 10), op.ints(2, "ends", 10)
    axes = op.ints(3, "axes", 10)
    steps = op.ints(4, "steps", 10) if op.opset >= 10 else []
    if data is None or data.rank != 1 or starts is None or ends is None:
        return None
    if axes not in ([], [0], [-1]) or steps is None or len(starts) != 1 or len(ends) != 1:
        return None
    step = steps[0] if steps else 1
    if step == 0:
        return None
    chosen = sliced(len(data.items), starts[0], ends[0], step)
    if chosen is None:
        return None
    return Partial(data.dtype, 1, tuple(data.items[i] for i in chosen))


def sliced(count: int, start: int, end: int, step: int) -> range | None:
    """The indices that Slice takes of an axis of `count` elements; None if runtimes disagree.

    Not Python's rule: going backwards, a start before the first element means the first. An end of
    INT_MAX or more then means the last to the specification, and the first to ONNX Runtime.
    """
    if step < 0 and end >= _RANGES[ir.DataType.INT32][1]:
        return None
    start, end = (bound + count if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return range(min(max(start, 0), count), min(max(end, 0), count), step)
    return range(min(max(start, 0), count - 1), min(max(end, -1), count - 1), step)


def _concat(op: Operation) -> Partial | None:
    parts = [part for part in op.inputs if part is not None]
    if not parts or len(parts) != len(op.inputs):
        return None
    if any(part.rank != 1 or part.dtype != parts[0].dtype for part in parts):
        return None
    return Partial(parts[0].dtype, 1, tuple(item for part in parts for item in part.items))


def _unsqueeze(op: Operation) -> Partial | None:
    data = op.input(0)
    if data is None or data.rank != 0 or op.ints(1, "axes", 13) not in ([0], [-1]):
        return None
    return Partial(data.dtype, 1, data.items)


def _squeeze(op: Operation) -> Partial | None:
    data = op.input(0)
    if data is None or data.rank != 1 or len(data.items) != 1:
        return None
    if op.ints(1, "axes", 13) not in ([], [0], [-1]):
        return None
    return Partial(data.dtype, 0, data.items)


def _reshape(op: Operation) -> Partial | None:
    data, shape = op.input(0), op.input(1)
    if op.opset < 5 or data is None or shape is None or shape.rank != 1:
        return None
    target, count = shape.ints(), len(data.items)
    if target == [] and count == 1:
        return Partial(data.dtype, 0, data.items)
    if target is not None and count and target in ([-1], [count]):
        return Partial(data.dtype, 1, data.items)
    return None


def _identity(op: Operation) -> Partial | None:
    return op.input(0)


def _cast(op: Operation) -> Partial | None:
    data, to = op.input(0), op.node.attributes.get("to")
    if data is None or to is None or to.type != ir.AttributeType.INT:
        return None
    target = ir.DataType(to.as_int())
    if target == data.dtype:
        return data
    items: tuple[Item, ...]
    if target == ir.DataType.BOOL:
        items = tuple(int(x != 0) if isinstance(x, int) else None for x in data.items)
    elif target == ir.DataType.INT64:
        items = data.items
    elif target == ir.DataType.INT32:
        items = tuple(_fit(x, target) if isinstance(x, int) else None for x in data.items)
    else:
        return None
    return Partial(target, data.rank, items)


def _constant_of_shape(op: Operation) -> Partial | None:
    shape, value = op.input(0), op.node.attributes.get("value")
    extent = None if shape is None else shape.ints()
    if value is None or extent is None or len(extent) > 1:
        return None
    tensor, count = value.as_tensor(), extent[0] if extent else 1
    if tensor.dtype not in _RANGES or not 0 <= count <= MAX_ITEMS:
        return None
    return Partial(tensor.dtype, len(extent), (int(tensor.numpy().reshape(-1)[0]),) * count)


def _reduce_prod(op: Operation) -> Partial | None:
    data, axes = op.input(0), op.ints(1, "axes", 18)
    if data is None or data.rank != 1 or data.dtype == ir.DataType.BOOL:
        return None
    noop: int = op.node.attributes.get_int("noop_with_empty_axes", 0)
    if axes not in ([], [0], [-1]) or noop:
        return None
    known = data.ints()
    product = None if known is None else _fit(math.prod(known), data.dtype)
    keeps: int = op.node.attributes.get_int("keepdims", 1)
    return Partial(data.dtype, int(keeps != 0), (product,))


def _where(op: Operation) -> Partial | None:
    condition, then, other = op.input(0), op.input(1), op.input(2)
    if condition is None or then is None or other is None or then.dtype != other.dtype:
        return None
    columns = _broadcast([condition, then, other])
    if columns is None:
        return None
    rank, rows = columns
    return Partial(then.dtype, rank, tuple(_choose(*row) for row in rows))


def _choose(condition: Item, then: Item, other: Item) -> Item:
    if isinstance(condition, int):
        return then if condition else other
    return then if then == other else None


def _elementwise(apply: Callable[[Item, Item], Item], dtype: ir.DataType | None = None) -> Rule:
    def rule(op: Operation) -> Partial | None:
        left, right = op.input(0), op.input(1)
        if left is None or right is None or left.dtype != right.dtype:
            return None
        if (dtype is None and left.dtype == ir.DataType.BOOL) or op.opset < 7:
            return None
        columns = _broadcast([left, right])
        if columns is None:
            return None
        rank, rows = columns
        result = dtype or left.dtype
        return Partial(result, rank, tuple(_fit(apply(*row), result) for row in rows))

    return rule


def _broadcast(parts: Sequence[Partial]) -> tuple[int, list[tuple[Item, ...]]] | None:
    """The rank of the result, and per element of it the items that meet there."""
    counts = {len(part.items) for part in parts if part.rank == 1} - {1}
    if len(counts) > 1:
        return None
    count = counts.pop() if counts else 1
    columns = [part.items if len(part.items) == count else part.items * count for part in parts]
    return max(part.rank for part in parts), list(zip(*columns, strict=True))


def _fit(item: Item, dtype: ir.DataType) -> Item:
    """`item`, unless it is a number that overflows `dtype`."""
    low, high = _RANGES[dtype]
    return None if isinstance(item, int) and not low <= item <= high else item


def _add(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return a if b == 0 else b if a == 0 else None


def _sub(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return a if b == 0 else None


def _mul(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return a if b == 1 else b if a == 1 else None


def _div(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # C++ rounds towards zero
    return a if b == 1 else None


def _equal(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return int(a == b)
    if isinstance(a, str) and isinstance(b, str):
        return 1 if a == b else None
    number = a if isinstance(a, int) else b
    dimension = isinstance(a, str) or isinstance(b, str)
    return 0 if dimension and isinstance(number, int) and number < 0 else None


Rule: TypeAlias = "Callable[[Operation], Partial | None]"

_RULES: Mapping[str, Rule] = {
    "Add": _elementwise(_add),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_div),
    "Equal": _elementwise(_equal, ir.DataType.BOOL),
    "Gather": _gather,
    "Identity": _identity,
    "Mul": _elementwise(_mul),
    "ReduceProd": _reduce_prod,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(_sub),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
