"""Gathers from a flattened tensor that put every element back in its place.

Exporters write a view with strides of its own (`as_strided`) as places in the flattened tensor:
for each axis a Range times its stride, added up. The strides of a row after row numbering make
the tensor what it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dim
from graphopt.ir.facts.dimension import add, multiply
from graphopt.rewriting import Rewriter

_MAX_ELEMENTS = 1 << 20
_MAX_DEPTH = 16


@dataclass(frozen=True)
class _Places:
    """Integers that grow evenly: `start` plus the position on each axis times its stride.

    The stride of an axis of one element is 0.
    """

    start: Dim
    strides: tuple[Dim, ...]


def unflattened(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """What a Reshape has flattened, if the Gather `node` takes all of it in order and shape."""
    flat = at.producer(node.inputs[0], "Reshape")
    if flat is None or at.rank(flat.outputs[0]) != 1:
        return None
    dims = at.dims(flat.inputs[0])
    if dims is None or dims != at.dims(node.inputs[1]):
        return None
    # Narrower integers may overflow on the way.
    if at.dtype(node.inputs[1]) != ir.DataType.INT64:
        return None
    places = _places(node.inputs[1], at)
    if places is None or places.start != 0:
        return None
    count: Dim = 1
    for dim, stride in zip(reversed(dims), reversed(places.strides), strict=True):
        if dim != 1 and stride != count:
            return None
        count = multiply(count, dim)
    return flat.inputs[0]


def _places(value: ir.Value | None, at: Rewriter, depth: int = 0) -> _Places | None:
    if value is None or depth > _MAX_DEPTH:
        return None
    rank, number = at.rank(value), _number(value, at)
    if rank is not None and number is not None:
        return _Places(number, (0,) * rank)
    if at.is_constant(value):
        return _of_constant(value, at)
    node = at.producer(value, "Range", "Unsqueeze", "Mul", "Add")
    if node is None:
        return None
    if node.op_type == "Range":
        start, step = _number(node.inputs[0], at), _number(node.inputs[2], at)
        return None if start is None or step is None else _Places(start, (step,))
    first = _places(node.inputs[0], at, depth + 1)
    if first is None or node.op_type == "Unsqueeze":
        return None if first is None else _unsqueezed(node, first, at)
    second = _places(node.inputs[1], at, depth + 1)
    if second is None:
        return None
    return _sum(node, (first, second), at) if node.op_type == "Add" else _product(first, second)


def _number(value: ir.Value | None, at: Rewriter) -> Dim | None:
    """The only element of `value`, which may be an expression of dimensions."""
    items = at.facts[value].items
    return items[0] if items is not None and len(items) == 1 else None


def _of_constant(value: ir.Value, at: Rewriter) -> _Places | None:
    array = at.array(value)
    if array is None or not 0 < array.size <= _MAX_ELEMENTS:
        return None
    start = int(array.flat[0])
    strides = [0] * array.ndim
    grid = np.full(array.shape, start, np.int64)
    for axis, size in enumerate(array.shape):
        if size > 1:
            strides[axis] = int(array.take(1, axis).flat[0]) - start
            shape = [size if axis == other else 1 for other in range(array.ndim)]
            grid += (np.arange(size) * strides[axis]).reshape(shape)
    return _Places(start, tuple(strides)) if np.array_equal(array, grid) else None


def _unsqueezed(node: ir.Node, inner: _Places, at: Rewriter) -> _Places | None:
    axes, rank = at.ints(node, 1, "axes", 13), at.rank(node.outputs[0])
    if axes is None or rank is None:
        return None
    left = iter(inner.strides)
    new = {axis % rank for axis in axes}
    return _Places(inner.start, tuple(0 if axis in new else next(left) for axis in range(rank)))


def _product(first: _Places, second: _Places) -> _Places | None:
    """By one number; a product of two that grow does not grow evenly."""
    if any(first.strides):
        first, second = second, first
    if any(first.strides) or len(first.strides) > len(second.strides):
        return None
    strides = tuple(multiply(first.start, stride) for stride in second.strides)
    return _Places(multiply(first.start, second.start), strides)


def _sum(node: ir.Node, parts: tuple[_Places, _Places], at: Rewriter) -> _Places | None:
    dims = at.dims(node.outputs[0])
    if dims is None:
        return None
    total: list[Dim] = [0] * len(dims)
    for value, part in zip(node.inputs, parts, strict=True):
        own, skipped = at.dims(value), len(dims) - len(part.strides)
        for axis, stride in enumerate(part.strides, skipped):
            if stride != 0 and (own is None or own[axis - skipped] != dims[axis]):
                return None  # one element, perhaps, which is then repeated
            total[axis] = add(total[axis], stride)
    return _Places(add(parts[0].start, parts[1].start), tuple(total))
