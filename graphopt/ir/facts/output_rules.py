"""Operators of several outputs, or whose output is of another type than the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx_ir as ir

from graphopt.ir.facts.data_rules import Rule
from graphopt.ir.facts.dimension import Dim, Dims, divide, multiply
from graphopt.ir.facts.fact import Fact, Item, Operation
from graphopt.ir.facts.shape_rules import broadcast

Rules: TypeAlias = "Callable[[Operation], list[Fact] | None]"


def _split(op: Operation) -> list[Fact] | None:
    """Parts of given sizes, or of one size; from opset 18 the last may be smaller."""
    source, dims = op.fact(0), op.dims(0)
    axis = None if dims is None else op.axis(0, len(dims))
    if dims is None or axis is None or op.opset < 2:
        return None
    count = len(op.node.outputs)
    sizes = _split_sizes(op, dims[axis], count)
    if len(sizes) != count:
        return None
    parts = [
        Fact(source.dtype, (*dims[:axis], op.named([size])[0], *dims[axis + 1 :])) for size in sizes
    ]
    numbers = [size for size in sizes if isinstance(size, int)]
    if source.items is None or len(numbers) != count or sum(numbers) != len(source.items):
        return parts
    starts = [sum(numbers[:index]) for index in range(count)]
    return [
        part._replace(items=source.items[start : start + number])
        for part, start, number in zip(parts, starts, numbers, strict=True)
    ]


def _split_sizes(op: Operation, whole: Dim, count: int) -> list[Item]:
    if op.opset < 13 or not op.has_input(1):
        given = op.node.attributes.get_ints("split", ()) if op.opset < 13 else ()
        if given:
            return list(given)
        if not isinstance(whole, int):
            even = divide(whole, count)
            return [even] * count
        most = -(-whole // count)
        sizes: list[Item] = [min(most, whole - most * index) for index in range(count)]
        fits = whole % count == 0 or (op.opset >= 18 and whole >= most * (count - 1))
        return sizes if fits else []
    items = op.fact(1).items
    return [None] * count if items is None else list(items)


def _top_k(op: Operation) -> list[Fact] | None:
    dims = op.dims(0)
    axis = None if dims is None else op.axis(-1, len(dims))
    if dims is None or axis is None or op.opset < 10:
        return None
    items = op.fact(1).items
    size = op.named([items[0] if items else None])[0]
    result = (*dims[:axis], size, *dims[axis + 1 :])
    return [Fact(op.fact(0).dtype, result), Fact(ir.DataType.INT64, result)]


def _arg(op: Operation) -> Fact | None:
    dims = op.dims(0)
    axis = None if dims is None else op.axis(0, len(dims))
    if dims is None or axis is None:
        return None
    kept = (1,) if op.node.attributes.get_int("keepdims", 1) else ()
    return Fact(ir.DataType.INT64, (*dims[:axis], *kept, *dims[axis + 1 :]))


def _gather_elements(op: Operation) -> Fact | None:
    return Fact(op.fact(0).dtype, op.dims(1))


def _gather_nd(op: Operation) -> Fact | None:
    dims, indices = op.dims(0), op.dims(1)
    if dims is None or not indices or not isinstance(indices[-1], int):
        return None
    batch: int = op.node.attributes.get_int("batch_dims", 0)
    return Fact(op.fact(0).dtype, (*indices[:-1], *dims[batch + indices[-1] :]))


def _non_zero(op: Operation) -> Fact | None:
    """A row per axis; runtimes disagree on a scalar."""
    dims = op.dims(0)
    return Fact(ir.DataType.INT64, op.named((len(dims) if dims else None, None)))


def _quantize(op: Operation) -> Fact | None:
    dtype = op.fact(2).dtype if op.has_input(2) else ir.DataType.UINT8
    given: int = op.node.attributes.get_int("output_dtype", 0)
    if given and not op.has_input(2):
        dtype = ir.DataType(given)
    return Fact(dtype, op.dims(0))


def _dequantize(op: Operation) -> Fact | None:
    given: int = op.node.attributes.get_int("output_dtype", 0)
    return Fact(ir.DataType(given) if given else op.fact(1).dtype, op.dims(0))


def _einsum(op: Operation) -> Fact | None:
    """With an explicit result and without "..."."""
    equation: str = op.node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(op.facts):
        return None
    sizes: dict[str, list[Dims]] = {}
    for term, fact in zip(terms, op.facts, strict=True):
        if fact.dims is None or len(fact.dims) != len(term):
            return None
        for letter, dim in zip(term, fact.dims, strict=True):
            sizes.setdefault(letter, []).append((dim,))
    parts = [broadcast(sizes.get(letter, [None])) for letter in right]
    if any(part is None for part in parts):
        return None
    return Fact(op.fact(0).dtype, tuple(part[0] for part in parts if part))


def _attention(op: Operation) -> Fact | None:
    """The result alone; heads are an axis of their own, or side by side in the last."""
    query, values, attributes = op.dims(0), op.dims(2), op.node.attributes
    if query is None or values is None or len(op.node.outputs) != 1:
        return None
    if len(query) == len(values) == 4:
        return Fact(op.fact(0).dtype, (*query[:3], values[3]))
    heads = attributes.get_int("q_num_heads", 0)
    others = attributes.get_int("kv_num_heads", 0)
    if not len(query) == len(values) == 3 or heads < 1 or others < 1:
        return None
    size = divide(values[2], others)
    width = None if size is None else multiply(size, heads)
    return Fact(op.fact(0).dtype, op.named((*query[:2], width)))


def _rms(op: Operation) -> Fact | None:
    return Fact(op.fact(1).dtype, op.dims(0))


OUTPUT_RULES: Mapping[str, Rules] = {"Split": _split, "TopK": _top_k}
TYPE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "Attention": _attention,
    "DequantizeLinear": _dequantize,
    "Einsum": _einsum,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "QuantizeLinear": _quantize,
    "RMSNormalization": _rms,
}
