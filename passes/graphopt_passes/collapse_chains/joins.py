"""Concat, and what takes its result apart again; Split, and what puts it together again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dim, Dims, product
from graphopt.ir.facts.dimension import Expr, add
from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import bypass, same_axis, vector
from graphopt_passes.collapse_chains.slices import bounds_of

_END = 2**31 - 1  # and more: to the end, whatever the size

# Indices of more elements are not written twice.
_MAX_COPIED = 4096


def _concats(node: ir.Node, at: Rewriter) -> bool:
    """Concat of Concats along the same axis -> one."""
    if at.opset < 4:
        return False
    rank = next((rank for v in node.inputs if (rank := at.rank(v)) is not None), None)
    for index in range(len(node.inputs)):
        found = at.before(node, index, "Concat")
        if found is not None and same_axis(node, found, 0, rank):
            inputs = [*node.inputs[:index], *found.inputs, *node.inputs[index + 1 :]]
            axis: int = node.attributes.get_int("axis", 0)
            at.become(node, "Concat", inputs, {"axis": axis})
            return True
    return False


def _concat_of_split(node: ir.Node, at: Rewriter) -> bool:
    """Concat of all parts of a Split, in order -> the original."""
    split = at.producer(node.inputs[0], "Split")
    if split is None or at.opset < 4 or list(node.inputs) != list(split.outputs):
        return False
    if not same_axis(node, split, 0, at.rank(split.inputs[0])):
        return False
    return bypass(node, at, split.inputs[0])


def _split_of_concat(node: ir.Node, at: Rewriter) -> bool:
    """Split of a Concat into the parts it was made of -> those."""
    concat = at.producer(node.inputs[0], "Concat")
    dims = None if concat is None else at.dims(concat.outputs[0])
    if concat is None or not dims or at.opset < 4 or len(concat.inputs) != len(node.outputs):
        return False
    if not same_axis(node, concat, 0, len(dims)):
        return False
    axis: int = node.attributes.get_int("axis", 0) % len(dims)
    for part, operand in zip(node.outputs, concat.inputs, strict=True):
        one, two = at.dims(part), at.dims(operand)
        if not one or not two or one[axis] != two[axis]:
            return False
    parts = [
        (part, operand)
        for part, operand in zip(node.outputs, concat.inputs, strict=True)
        if operand is not None and (part.uses() or part.is_graph_output())
    ]
    outputs = [operand for part, operand in parts if part.is_graph_output()]
    if len(set(outputs)) != len(outputs) or not all(_can_be_output(v, node) for v in outputs):
        raise DeclinedError(
            "an input, a constant or another output would be an output of the graph"
        )
    return bool(parts) and all(at.replace(part, operand) for part, operand in parts)


def _can_be_output(value: ir.Value, node: ir.Node) -> bool:
    """Whether `value` can be an output of the graph of `node`, under another name."""
    producer = value.producer()
    return producer is not None and producer.graph is node.graph and not value.is_graph_output()


def _slice_of_concat(node: ir.Node, at: Rewriter) -> bool:
    """Slice of a Concat that takes one whole operand, or a part of one -> that."""
    concat = at.producer(node.inputs[0], "Concat")
    dims = None if concat is None else at.dims(concat.outputs[0])
    if concat is None or not dims or at.opset < 4:
        return False
    axis: int = concat.attributes.get_int("axis", 0) % len(dims)
    whole = _taken(node, at, axis, len(dims))
    if whole is not None:
        for operand, start, end, is_last in _operands(concat, at, axis):
            if start == whole[0] and (end == whole[1] or (is_last and _is_end(whole[1]))):
                return bypass(node, at, operand)
    cuts = bounds_of(node, at)
    if at.before(node, 0, "Concat") is None or cuts is None or set(cuts) != {axis}:
        return False
    cut = cuts[axis]
    if min(cut.start, cut.end) < 0 or cut.end > _END or cut.end <= cut.start:
        return False
    for operand, start, end, _ in _operands(concat, at, axis):
        if not isinstance(start, int) or not isinstance(end, int):
            return False
        if start <= cut.start and cut.end <= end:
            _shifted_slice(node, at, operand, (axis, start))
            return True
    return False


def _shifted_slice(node: ir.Node, at: Rewriter, operand: ir.Value, by: tuple[int, int]) -> None:
    axis, start = by
    cut = (bounds_of(node, at) or {})[axis]
    columns = {"starts": [cut.start - start], "ends": [cut.end - start], "axes": [axis]}
    if at.opset < 10:
        at.become(node, "Slice", [operand], columns)
        return
    if cut.step != 1:
        columns["steps"] = [cut.step]
    inputs = [vector(numbers, what, node, at) for what, numbers in columns.items()]
    at.become(node, "Slice", [operand, *inputs])


def _taken(node: ir.Node, at: Rewriter, axis: int, rank: int) -> tuple[Dim, Dim] | None:
    """(start, end) of a Slice of every element along `axis` alone; symbols of sizes are allowed."""
    if at.opset < 10:
        cut = (bounds_of(node, at) or {}).get(axis)
        alone = cut is not None and len(node.attributes.get_ints("starts", ())) == 1
        return (cut.start, cut.end) if cut is not None and alone else None
    inputs = [*node.inputs[1:], None, None]
    starts, ends = (at.facts[value].items for value in inputs[:2])
    axes = (0,) if inputs[2] is None else at.facts[inputs[2]].items
    steps = (1,) if inputs[3] is None else at.facts[inputs[3]].items
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1 or steps != (1,):
        return None
    if axes not in ((axis,), (axis - rank,)) or starts[0] is None or ends[0] is None:
        return None
    sizes = all(_is_size(bound) for bound in (starts[0], ends[0]))
    return (starts[0], ends[0]) if sizes else None


def _is_size(bound: Dim) -> bool:
    """Whether it is surely not negative, and so does not count from the end."""
    return bound.is_positive_combination() if isinstance(bound, Expr) else bound >= 0


def _is_end(bound: Dim) -> bool:
    return isinstance(bound, int) and bound >= _END


def _operands(
    concat: ir.Node, at: Rewriter, axis: int
) -> Iterator[tuple[ir.Value, Dim, Dim, bool]]:
    """(operand, where it starts, where it ends, whether it is the last), as far as is known."""
    start: Dim = 0
    for number, value in enumerate(concat.inputs, 1):
        dims: Dims | None = at.dims(value)
        if value is None or dims is None or axis >= len(dims):
            return
        end = add(start, dims[axis])
        yield value, start, end, number == len(concat.inputs)
        start = end


def _gather_of_concat(node: ir.Node, at: Rewriter) -> bool:
    """Gather, of a Concat, of one whole operand, or from one alone -> that."""
    concat = at.producer(node.inputs[0], "Concat")
    dims = None if concat is None else at.dims(concat.outputs[0])
    indices = None if not dims else at.small(node.inputs[1])
    if concat is None or not dims or indices is None or not indices.size or at.opset < 9:
        return False
    axis: int = concat.attributes.get_int("axis", 0) % len(dims)
    if not same_axis(node, concat, 0, len(dims)):
        return False
    total = dims[axis]
    if indices.min() < 0 and not isinstance(total, int):
        return False
    wanted = np.where(indices < 0, indices + (total if isinstance(total, int) else 0), indices)
    lone = at.before(node, 0, "Concat") is not None
    for operand, start, end, _ in _operands(concat, at, axis):
        if not isinstance(start, int) or not isinstance(end, int):
            return False
        if indices.ndim == 1 and wanted.tolist() == list(range(start, end)):
            return bypass(node, at, operand)
        if lone and start <= wanted.min() and wanted.max() < end:
            shifted = np.asarray(wanted - start, np.int64)
            name = f"{node.outputs[0].name}_indices"
            at.become(node, "Gather", [operand, at.constant(shifted, name, node)], {"axis": axis})
            return True
    return False


def _gathers(node: ir.Node, at: Rewriter) -> bool:
    """Gather of Gather along the same axis, with constant indices -> one."""
    found = at.before(node, 0, "Gather")
    rank = None if found is None else at.rank(found.inputs[0])
    first = None if not rank else at.small(found.inputs[1]) if found is not None else None
    if found is None or first is None or first.ndim != 1 or at.opset < 9:
        return False
    second = at.small(node.inputs[1])
    if second is None or not second.size or not same_axis(node, found, 0, rank):
        return False
    if not (-len(first) <= second.min() and second.max() < len(first)):
        return False
    both = np.asarray(first[second], np.int64)
    name = f"{node.outputs[0].name}_indices"
    axis: int = found.attributes.get_int("axis", 0)
    at.become(node, "Gather", [found.inputs[0], at.constant(both, name, node)], {"axis": axis})
    return True


def _reshape_of_gather(node: ir.Node, at: Rewriter) -> bool:
    """Gather with constant indices, and a Reshape of their axes alone -> Gather of reshaped ones.

    So do tables of relative positions look, in attention over windows.
    """
    found = at.before(node, 0, "Gather")
    dims = None if found is None else at.dims(found.inputs[0])
    result = at.dims(node.outputs[0])
    if found is None or not dims or result is None or at.opset < 9:
        return False
    axis: int = found.attributes.get_int("axis", 0) % len(dims)
    behind = dims[axis + 1 :]
    shape = result[axis : len(result) - len(behind)]
    count = at.dims(found.inputs[1])
    if result != (*dims[:axis], *shape, *behind) or not count or product(shape) != product(count):
        return False
    if not all(isinstance(dim, int) and dim > 0 for dim in (*shape, *count)):
        return False
    indices = at.array(found.inputs[1])
    if indices is None or (indices.size > _MAX_COPIED and not at.owns(found, 1)):
        return False
    numbers = [dim for dim in shape if isinstance(dim, int)]
    name = f"{node.outputs[0].name}_indices"
    inputs = [found.inputs[0], at.constant(indices.reshape(numbers), name, node)]
    at.become(node, "Gather", inputs, {"axis": axis})
    return True


RULES = (
    Rule("concat-of-split", ("Concat",), _concat_of_split),
    Rule("concat-of-concat", ("Concat",), _concats),
    Rule("split-of-concat", ("Split",), _split_of_concat),
    Rule("slice-of-concat", ("Slice",), _slice_of_concat),
    Rule("gather-of-concat", ("Gather",), _gather_of_concat),
    Rule("reshape-of-gather", ("Reshape",), _reshape_of_gather),
    Rule("gather-of-gather", ("Gather",), _gathers),
)
