"""Integer arithmetic on shapes, as far as it can be done without the inputs.

Each rule gives the fact of its operator's one output, or None where the elements cannot be
followed. Whatever is not in the table is not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.ir.facts.dimension import (
    Expr,
    add,
    divide,
    multiply,
    product,
    subtract,
)
from graphopt.ir.facts.fact import MAX_ITEMS, RANGES, Fact, Item, Operation, data, fit

Rule: TypeAlias = "Callable[[Operation], Fact | None]"


def _shape(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None:
        return None
    attributes = op.node.attributes
    start = attributes.get_int("start", 0) if op.opset >= 15 else 0
    end = attributes.get_int("end", len(dims)) if op.opset >= 15 else len(dims)
    return data(ir.DataType.INT64, 1, dims[slice(start, end)])


def _size(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None:
        return None
    return data(ir.DataType.INT64, 0, (fit(product(dims), ir.DataType.INT64),))


def _vector(op: Operation, index: int) -> Fact | None:
    """The fact of input `index` if its elements are followed and it is of rank 1."""
    fact = op.fact(index)
    return fact if fact.items is not None and fact.dims else None


def _gather(op: Operation) -> Fact | None:
    source, indices = _vector(op, 0), op.fact(1)
    if source is None or source.items is None or indices.dims is None or source.dtype is None:
        return None
    chosen, count = indices.ints(), len(source.items)
    if chosen is None or not all(-count <= i < count for i in chosen):
        return None
    return data(source.dtype, len(indices.dims), [source.items[i] for i in chosen])


def _slice(op: Operation) -> Fact | None:
    source = _vector(op, 0)
    starts, ends = op.ints(1, "starts", 10), op.ints(2, "ends", 10)
    axes = op.ints(3, "axes", 10)
    steps = op.ints(4, "steps", 10) if op.opset >= 10 else []
    if source is None or source.items is None or source.dtype is None:
        return None
    if starts is None or ends is None or steps is None or axes not in ([], [0], [-1]):
        return None
    if len(starts) != 1 or len(ends) != 1 or steps == [0]:
        return None
    chosen = sliced(len(source.items), starts[0], ends[0], steps[0] if steps else 1)
    if chosen is None:
        return None
    return data(source.dtype, 1, [source.items[i] for i in chosen])


def sliced(count: int, start: int, end: int, step: int) -> range | None:
    """The indices that Slice takes of an axis of `count` elements; None if runtimes disagree.

    Not Python's rule: going backwards, a start before the first element means the first. An end of
    INT_MAX or more then means the last to the specification, and the first to ONNX Runtime.
    """
    if step < 0 and end >= RANGES[ir.DataType.INT32][1]:
        return None
    start, end = (bound + count if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return range(min(max(start, 0), count), min(max(end, 0), count), step)
    return range(min(max(start, 0), count - 1), min(max(end, -1), count - 1), step)


def _concat(op: Operation) -> Fact | None:
    items: list[Item] = []
    for fact in op.facts:
        if fact.items is None or not fact.dims or fact.dtype != op.facts[0].dtype:
            return None
        items.extend(fact.items)
    dtype = op.facts[0].dtype if op.facts else None
    return None if dtype is None else data(dtype, 1, items)


def _unsqueeze(op: Operation) -> Fact | None:
    source = op.fact(0)
    if source.items is None or source.dims != () or source.dtype is None:
        return None
    return data(source.dtype, 1, source.items) if op.axes(1, 13, 1) == [0] else None


def _squeeze(op: Operation) -> Fact | None:
    source = _vector(op, 0)
    if source is None or source.items is None or len(source.items) != 1 or source.dtype is None:
        return None
    return data(source.dtype, 0, source.items) if op.axes(1, 13, 1) in ([], [0]) else None


def _reshape(op: Operation) -> Fact | None:
    source, shape = op.fact(0), _vector(op, 1)
    if op.opset < 5 or source.items is None or shape is None or source.dtype is None:
        return None
    target, count = shape.ints(), len(source.items)
    if target == [] and count == 1:
        return data(source.dtype, 0, source.items)
    if target is not None and count and target in ([-1], [count]):
        return data(source.dtype, 1, source.items)
    return None


def _identity(op: Operation) -> Fact | None:
    return op.fact(0) if op.fact(0).items is not None else None


def _cast(op: Operation) -> Fact | None:
    source, to = op.fact(0), op.node.attributes.get("to")
    if source.items is None or source.dims is None:
        return None
    if to is None or to.type != ir.AttributeType.INT:
        return None
    target = ir.DataType(to.as_int())
    if target == source.dtype:
        return source
    items: list[Item]
    if target == ir.DataType.BOOL:
        items = [int(x != 0) if isinstance(x, int) else None for x in source.items]
    elif target == ir.DataType.INT64:
        items = list(source.items)
    elif target == ir.DataType.INT32:
        items = [fit(x, target) if isinstance(x, int) else None for x in source.items]
    else:
        return None
    return data(target, len(source.dims), items)


def _constant_of_shape(op: Operation) -> Fact | None:
    extent, value = op.fact(0).ints(), op.node.attributes.get("value")
    if value is None or extent is None or len(extent) > 1 or op.dims(0) == ():
        return None
    tensor, count = value.value, extent[0] if extent else 1
    if tensor.dtype not in RANGES or not 0 <= count <= MAX_ITEMS or tensor.size != 1:
        return None
    return data(tensor.dtype, len(extent), (int(tensor.numpy().reshape(-1)[0]),) * count)


def _range(op: Operation) -> Fact | None:
    bounds = [op.fact(index).ints() for index in range(3)]
    dtype = op.fact(0).dtype
    if dtype not in RANGES or any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, limit, delta = (bound[0] for bound in bounds if bound)
    if delta == 0 or not (numbers := range(start, limit, delta)):
        return None
    return data(dtype, 1, list(numbers)) if len(numbers) <= MAX_ITEMS else None


def _reduce_prod(op: Operation) -> Fact | None:
    source = _vector(op, 0)
    if source is None or source.items is None or source.dtype in (None, ir.DataType.BOOL):
        return None
    noop: int = op.node.attributes.get_int("noop_with_empty_axes", 0)
    if op.axes(1, 18, 1) not in ([], [0]) or noop:
        return None
    known = [item for item in source.items if item is not None]
    whole = fit(product(tuple(known)), source.dtype) if len(known) == len(source.items) else None
    keeps: int = op.node.attributes.get_int("keepdims", 1)
    return data(source.dtype, int(keeps != 0), (whole,))


def _where(op: Operation) -> Fact | None:
    then, other = op.fact(1), op.fact(2)
    if then.dtype is None or then.dtype != other.dtype:
        return None
    columns = _broadcast([op.fact(0), then, other])
    if columns is None:
        return None
    rank, rows = columns
    return data(then.dtype, rank, [_choose(*row) for row in rows])


def _choose(condition: Item, then: Item, other: Item) -> Item:
    if isinstance(condition, int):
        return then if condition else other
    return then if then == other else None


def _elementwise(apply: Callable[[Item, Item], Item], dtype: ir.DataType | None = None) -> Rule:
    def rule(op: Operation) -> Fact | None:
        left, right = op.fact(0), op.fact(1)
        if left.dtype not in RANGES or left.dtype != right.dtype or op.opset < 7:
            return None
        if dtype is None and left.dtype == ir.DataType.BOOL:
            return None
        columns = _broadcast([left, right])
        if columns is None:
            return None
        rank, rows = columns
        result = dtype or left.dtype
        return data(result, rank, [fit(apply(*row), result) for row in rows])

    return rule


def _broadcast(facts: Sequence[Fact]) -> tuple[int, list[tuple[Item, ...]]] | None:
    """The rank of the result, and per element of it the items that meet there."""
    columns = [fact.items for fact in facts if fact.items is not None]
    if len(columns) != len(facts):
        return None
    counts = {len(items) for items, fact in zip(columns, facts, strict=True) if fact.dims} - {1}
    if len(counts) > 1:
        return None
    count = counts.pop() if counts else 1
    full = [items if len(items) == count else items * count for items in columns]
    rank = max(len(fact.dims or ()) for fact in facts)
    return rank, list(zip(*full, strict=True))


def _add(a: Item, b: Item) -> Item:
    return None if a is None or b is None else add(a, b)


def _sub(a: Item, b: Item) -> Item:
    return None if a is None or b is None else subtract(a, b)


def _mul(a: Item, b: Item) -> Item:
    if a is None or b is None:
        return None
    return multiply(a, b)


def _div(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # C++ rounds towards zero
    return None if a is None or b is None else divide(a, b)


def _mod(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0:
        return a % b
    return (
        0 if a is not None and isinstance(b, int) and b > 0 and divide(a, b) is not None else None
    )


def _minimum(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return a if a is not None and a == b else None


def _maximum(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return a if a is not None and a == b else None


def _equal(a: Item, b: Item) -> Item:
    if isinstance(a, int) and isinstance(b, int):
        return int(a == b)
    if isinstance(a, Expr) and isinstance(b, Expr):
        return 1 if a == b else None
    number, other = (a, b) if isinstance(a, int) else (b, a)
    size = isinstance(other, Expr) and other.is_positive_combination()
    return 0 if size and isinstance(number, int) and number < 0 else None


def _less(a: Item, b: Item) -> Item:
    return int(a < b) if isinstance(a, int) and isinstance(b, int) else None


def _not(op: Operation) -> Fact | None:
    source = op.fact(0)
    if source.items is None or source.dims is None or source.dtype != ir.DataType.BOOL:
        return None
    items = [1 - item if isinstance(item, int) else None for item in source.items]
    return data(ir.DataType.BOOL, len(source.dims), items)


def _and(a: Item, b: Item) -> Item:
    if a == 0 or b == 0:
        return 0
    return 1 if isinstance(a, int) and isinstance(b, int) else None


def _or(a: Item, b: Item) -> Item:
    if a == 1 or b == 1:
        return 1
    return 0 if isinstance(a, int) and isinstance(b, int) else None


def _logical(apply: Callable[[Item, Item], Item]) -> Rule:
    return _elementwise(apply, ir.DataType.BOOL)


DATA_RULES: Mapping[str, Rule] = {
    "Add": _elementwise(_add),
    "And": _logical(_and),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_div),
    "Equal": _logical(_equal),
    "Gather": _gather,
    "Greater": _logical(lambda a, b: _less(b, a)),
    "Identity": _identity,
    "Less": _logical(_less),
    "Max": _elementwise(_maximum),
    "Min": _elementwise(_minimum),
    "Mod": _elementwise(_mod),
    "Mul": _elementwise(_mul),
    "Not": _not,
    "Or": _logical(_or),
    "Range": _range,
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
