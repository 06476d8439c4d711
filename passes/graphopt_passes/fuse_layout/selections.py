"""Slices and Gathers of one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import sole_use
from graphopt.ir.facts import Dims
from graphopt.rewriting import Rewriter, Rule
from graphopt.rewriting.axes import adds, drops, kept

# A value with more users than this is not looked through.
_MAX_USERS = 64
_INTEGER_CONSTANTS = 9  # before that opset a Constant node is of floating-point numbers
_END = 2**31 - 1  # and more: to the end, whatever the size


@dataclass(frozen=True)
class _Part:
    """A Slice along one axis, every element from `start` up to `end`."""

    node: ir.Node
    axis: int
    start: int
    end: int


def _part(node: ir.Node, at: Rewriter, rank: int) -> _Part | None:
    """The constant bounds of a Slice along a single axis of a value of `rank`, as they stand."""
    starts, ends = at.ints(node, 1, "starts", 10), at.ints(node, 2, "ends", 10)
    axes = at.ints(node, 3, "axes", 10) or (0,)
    steps = (at.ints(node, 4, "steps", 10) if at.opset >= 10 else ()) or (1,)
    if not starts or not ends or not len(starts) == len(ends) == len(axes) == len(steps) == 1:
        return None
    if _is_unknown(node, at) or steps != (1,) or not -rank <= axes[0] < rank:
        return None
    return _Part(node, axes[0] % rank, starts[0], ends[0])


def _is_unknown(node: ir.Node, at: Rewriter) -> bool:
    """Whether axes or steps are inputs that are not known."""
    given = [value for value in node.inputs[3:] if value is not None]
    return any(at.facts[value].ints() is None for value in given)


def _split_of_slices(node: ir.Node, at: Rewriter) -> bool:
    """Slices that cover an axis of one value without a gap -> Split."""
    value = node.inputs[0]
    dims = at.dims(value)
    first = None if not dims else _part(node, at, len(dims))
    if value is None or node.graph is None or not dims or first is None or first.start != 0:
        return False
    size = dims[first.axis]
    if not isinstance(size, int) or size == 0 or at.is_constant(value):
        return False
    parts = _siblings(first, value, at, len(dims), size)
    if len(parts) < 2 or [part.start for part in parts] != [0, *(p.end for p in parts[:-1])]:
        return False
    if parts[-1].end != size or any(part.start >= part.end for part in parts):
        return False
    if all(_is_squeezed(part.node, at, dims) for part in parts):
        return False  # each becomes one Gather
    if not at.has_operator("Split", 2):
        return False
    sizes = [part.end - part.start for part in parts]
    pieces = _split(value, at, node.graph, first.axis, sizes)
    for part, piece in zip(parts, pieces, strict=True):
        at.replace(part.node.outputs[0], piece)
    return True


def _is_squeezed(node: ir.Node, at: Rewriter, dims: Dims) -> bool:
    """Whether a Slice of a value of `dims` takes one element, and a Squeeze follows."""
    part, squeeze = _part(node, at, len(dims)), at.after(node, "Squeeze")
    result = at.dims(node.outputs[0])
    if part is None or squeeze is None or result is None or at.opset < _INTEGER_CONSTANTS:
        return False
    return _one_sliced(node, at) is not None and drops(squeeze, at, result, (part.axis,))


def _siblings(first: _Part, value: ir.Value, at: Rewriter, rank: int, size: int) -> list[_Part]:
    """The Slices of `value` along the axis of `first` in its graph, in order; [] if too many."""
    users = value.uses()
    if not 2 <= len(users) <= _MAX_USERS:
        return []
    parts = []
    for user in users:
        if user.idx != 0 or user.node.graph is not first.node.graph:
            continue
        part = _part(user.node, at, rank) if at.is_op(user.node, "Slice") else None
        if part is not None and part.axis == first.axis:
            start, end = (
                min(max(b + size if b < 0 else b, 0), size) for b in (part.start, part.end)
            )
            parts.append(_Part(part.node, part.axis, start, end))
    return sorted(parts, key=lambda part: (part.start, part.end))


def _split(
    value: ir.Value, at: Rewriter, graph: ir.Graph | ir.Function, axis: int, sizes: list[int]
) -> Sequence[ir.Value]:
    """The pieces of `value`, each of its size along `axis`."""
    equal = len(set(sizes)) == 1
    attributes: dict[str, int | list[int]] = {"axis": axis}
    if equal and at.opset >= 18:
        attributes["num_outputs"] = len(sizes)
    elif not equal and at.opset < 13:
        attributes["split"] = sizes
    node = at.insert_behind(value, graph, "Split", [value], attributes, outputs=len(sizes))
    if not equal and at.opset >= 13:
        at.set_input(node, 1, at.constant(np.array(sizes, np.int64), f"{node.name}_sizes", node))
    return node.outputs


def _squeeze_of_selection(node: ir.Node, at: Rewriter) -> bool:
    """One element along an axis by Gather or Slice, and a Squeeze of the axis -> Gather."""
    found = at.before(node, 0, "Gather", "Slice")
    result = None if found is None else at.dims(found.outputs[0])
    if found is None or not result:
        return False
    chosen = _one_gathered(found, at) if found.op_type == "Gather" else _one_sliced(found, at)
    if chosen is None or not drops(node, at, result, (chosen[0],)):
        return False
    axis, index = chosen
    if node.op_type != "Squeeze" and result[axis] != 1:
        return False
    if not at.has_operator("Gather", 1) or at.opset < _INTEGER_CONSTANTS:
        return False
    number = at.constant(np.array(index, np.int64), f"{node.outputs[0].name}_index", node)
    at.become(node, "Gather", [found.inputs[0], number], {"axis": axis})
    return True


def _one_gathered(node: ir.Node, at: Rewriter) -> tuple[int, int] | None:
    """(axis, index) of a Gather with a vector of one constant index."""
    dims, index = at.dims(node.inputs[0]), at.small(node.inputs[1])
    if not dims or index is None or index.shape != (1,):
        return None
    axis = _gather_axis(node, len(dims))
    return None if axis is None else (axis, int(index[0]))


def _one_sliced(node: ir.Node, at: Rewriter) -> tuple[int, int] | None:
    """(axis, index) of a Slice that takes a single element, or nothing if that is not there."""
    dims = at.dims(node.inputs[0])
    part = None if not dims else _part(node, at, len(dims))
    if part is None:
        return None
    last = part.start == -1 and part.end >= _END
    return (part.axis, part.start) if last or part.end == part.start + 1 != 0 else None


def _gather_axis(node: ir.Node, rank: int) -> int | None:
    axis: int = node.attributes.get_int("axis", 0)
    return axis % rank if -rank <= axis < rank else None


def _squeezes_of_split(node: ir.Node, at: Rewriter) -> bool:
    """Split into single elements, each of which is squeezed -> as many Gathers."""
    dims = at.dims(node.inputs[0])
    axis = None if not dims else _gather_axis(node, len(dims))
    if axis is None or len(node.outputs) > _MAX_USERS or at.opset < _INTEGER_CONSTANTS:
        return False
    squeezes: list[tuple[ir.Node, int]] = []
    for number, piece in enumerate(node.outputs):
        result = at.dims(piece)
        if not result or result[axis] != 1:
            return False
        if not piece.uses() and not piece.is_graph_output():
            continue
        squeeze = sole_use(piece)
        if squeeze is None or squeeze.graph is not node.graph or not at.is_op(squeeze, "Squeeze"):
            return False
        if not drops(squeeze, at, result, (axis,)):
            return False
        squeezes.append((squeeze, number))
    if not at.has_operator("Gather", 1):
        return False
    value = node.inputs[0]
    for squeeze, number in squeezes:
        index = at.constant(np.array(number), f"{squeeze.outputs[0].name}_index", squeeze)
        at.become(squeeze, "Gather", [value, index], {"axis": axis})
    return bool(squeezes)


def _unsqueeze_of_gather(node: ir.Node, at: Rewriter) -> bool:
    """Gather of one element, and an Unsqueeze at its axis -> Gather of a vector of one index."""
    found = at.before(node, 0, "Gather")
    dims = None if found is None else at.dims(found.inputs[0])
    index = None if found is None else at.small(found.inputs[1])
    if found is None or not dims or index is None or index.shape != ():
        return False
    axis = _gather_axis(found, len(dims))
    if axis is None or at.opset < _INTEGER_CONSTANTS:
        return False
    if not adds(node, at, kept(dims, (axis,)), (axis,)):
        return False
    name = f"{node.outputs[0].name}_index"
    number = at.constant(index.reshape(1).astype(np.int64), name, node)
    at.become(node, "Gather", [found.inputs[0], number], {"axis": axis})
    return True


def _part_of_shape(node: ir.Node, at: Rewriter) -> bool:
    """Gather or Slice of neighbouring dimensions of a Shape -> Shape with `start` and `end`."""
    shape = at.producer(node.inputs[0], "Shape")
    dims = None if shape is None else at.dims(shape.inputs[0])
    if shape is None or dims is None or not at.has_operator("Shape", 15):
        return False
    whole = range(len(dims))[
        slice(shape.attributes.get_int("start", 0), shape.attributes.get_int("end", len(dims)))
    ]
    chosen = _neighbours(node, at, whole)
    if chosen is None:
        return False
    attributes = {"start": chosen.start, "end": chosen.stop}
    at.become(node, "Shape", [shape.inputs[0]], attributes)
    return True


def _neighbours(node: ir.Node, at: Rewriter, whole: range) -> range | None:
    """What a Gather or Slice takes of the vector `whole`, if it is one run of it."""
    if node.op_type == "Slice":
        part = _part(node, at, 1)
        chosen = None if part is None else whole[part.start : part.end]
        return chosen or None
    indices = at.small(node.inputs[1])
    if indices is None or indices.ndim != 1 or not indices.size:
        return None
    if not all(-len(whole) <= index < len(whole) for index in indices.tolist()):
        return None
    taken = [whole[index] for index in indices.tolist()]
    run = range(taken[0], taken[0] + len(taken))
    return run if taken == list(run) else None


RULES = (
    Rule("split-of-slices", ("Slice",), _split_of_slices),
    Rule("squeezes-of-split", ("Split",), _squeezes_of_split),
    Rule("part-of-shape", ("Gather", "Slice"), _part_of_shape),
    Rule("squeeze-of-selection", ("Squeeze", "Reshape", "Flatten"), _squeeze_of_selection),
    Rule("unsqueeze-of-gather", ("Unsqueeze", "Reshape"), _unsqueeze_of_gather),
)
