"""Chains of Reshape, Flatten, Squeeze and Unsqueeze, and of Transpose."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.ir.facts import Dims, Item
from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import ahead, bypass, vector

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def _view(value: ir.Value | None, at: Rewriter) -> ir.Node | None:
    """What makes `value`, if it keeps all elements in their order."""
    found = at.producer(value, *VIEWS, "Transpose")
    return None if found is None or not _is_view(found, at) else found


def _is_view(node: ir.Node, at: Rewriter) -> bool:
    """Whether `node` keeps all elements in their order: a Transpose does if it moves ones only."""
    if node.op_type != "Transpose":
        return True
    dims = at.dims(node.inputs[0])
    if dims is None:
        return False
    perm = node.attributes.get_ints("perm", tuple(reversed(range(len(dims)))))
    moved = [axis for axis in perm if dims[axis] != 1]
    return sorted(perm) == list(range(len(dims))) and moved == sorted(moved)


def _reshape_of_view(node: ir.Node, at: Rewriter) -> bool:
    """Reshape of what has only been reshaped before -> Reshape of the original."""
    found = None if at.opset < 5 or len(node.inputs) != 2 else _view(node.inputs[0], at)
    if found is None:
        return False
    source, shape = found.inputs[0], node.inputs[1]
    if at.dims(source) is not None and at.dims(source) == at.dims(node.outputs[0]):
        return bypass(node, at, source)
    if ahead(node, at, found.op_type) is None:
        return False
    numbers, result = at.facts[shape].ints(), at.facts[node.outputs[0]].static_dims
    if numbers is not None and result is not None and 0 not in result and numbers != [*result]:
        # What the value between tells of the original, to be dropped by Squeeze, say, is kept.
        at.become(node, "Reshape", [source, vector(result, "shape", node, at)])
        return True
    if node.attributes.get_int("allowzero", 0) and at.opset >= 14:
        at.set_input(node, 0, source)
        return True
    items = at.facts[shape].items
    if items is None:
        raise DeclinedError("the shape is not known, and a 0 in it would copy a dimension")
    inner, outer = at.dims(found.outputs[0]) or (), at.dims(source) or ()
    if all(_means_the_same(item, axis, inner, outer) for axis, item in enumerate(items)):
        at.set_input(node, 0, source)
        return True
    target = None if numbers is None else _without_copies(numbers, inner, outer)
    if target is None:
        raise DeclinedError("a 0 in the shape copies a dimension that is not known")
    constant = vector(target, "shape", node, at)
    at.become(node, "Reshape", [source, constant])
    return True


def _means_the_same(item: Item, axis: int, inner: Dims, outer: Dims) -> bool:
    """Whether an element of a shape says the same of a value of `outer` as of one of `inner`.

    A 0, which a symbol may turn out to be, copies a dimension.
    """
    if isinstance(item, int) and item != 0:
        return True
    return axis < len(inner) and axis < len(outer) and inner[axis] == outer[axis]


def _without_copies(numbers: Sequence[int], inner: Dims, outer: Dims) -> list[int] | None:
    """The shape `numbers` for `inner`, in terms of `outer`."""
    target, unknown = list(numbers), []
    for axis, number in enumerate(numbers):
        if _means_the_same(number, axis, inner, outer):
            continue
        copied = inner[axis] if axis < len(inner) else None
        if isinstance(copied, int) and copied > 0:
            target[axis] = copied
        else:
            unknown.append(axis)
    if not unknown:
        return target
    others = [number for axis, number in enumerate(target) if axis not in unknown]
    if len(unknown) > 1 or any(number <= 0 for number in others):
        return None
    target[unknown[0]] = -1
    return target


def _view_of_view(node: ir.Node, at: Rewriter) -> bool:
    """Another view of what has only been reshaped -> Reshape of the original."""
    found = at.producer(node.inputs[0], *VIEWS, "Transpose")
    if found is None or node.op_type == found.op_type == "Transpose":
        return False
    source = found.inputs[0]
    if source is None or not (_is_view(found, at) and _is_view(node, at)):
        return False
    result, dims = at.dims(node.outputs[0]), at.dims(source)
    if result is None:
        return False
    if result == dims:
        return bypass(node, at, source)
    if ahead(node, at, found.op_type) is None:
        return False
    target = _target(result, dims or ())
    if target is None or not at.has_operator("Reshape", 5):
        return False
    at.become(node, "Reshape", [source, vector(target, "shape", node, at)])
    return True


def _target(result: Dims, source: Dims) -> list[int] | None:
    """A constant shape by which a value of `source` surely gets the dimensions `result`.

    A -1 stands for a single unknown beside positive numbers only: with a 0 among them, a tensor
    without elements would leave it undetermined.
    """
    target: list[int] = []
    for axis, dim in enumerate(result):
        if isinstance(dim, int):
            target.append(dim)
        elif axis < len(source) and source[axis] == dim:
            target.append(0)
        else:
            target.append(-1)
    if any(dim == 0 for dim in result):
        return None
    if -1 in target and (target.count(-1) > 1 or 0 in target):
        return _one_left_out(result)
    return target


def _one_left_out(result: Dims) -> list[int] | None:
    """`_target` by means of a -1 alone."""
    numbers = [dim if isinstance(dim, int) else -1 for dim in result]
    return numbers if numbers.count(-1) == 1 else None


def _squeezes(node: ir.Node, at: Rewriter) -> bool:
    """Squeeze of Squeeze -> one, over all the axes."""
    found = ahead(node, at, "Squeeze")
    rank = None if found is None else at.rank(found.inputs[0])
    if found is None or rank is None:
        return False
    first = _axes(found, at, rank)
    second = None if not first else _axes(node, at, rank - len(first))
    if not first or not second:
        return False
    left = [axis for axis in range(rank) if axis not in first]
    _write(node, at, found.inputs[0], sorted([*first, *(left[axis] for axis in second)]))
    return True


def _unsqueezes(node: ir.Node, at: Rewriter) -> bool:
    """Unsqueeze of Unsqueeze -> one, over all the axes."""
    found = ahead(node, at, "Unsqueeze")
    rank = None if found is None else at.rank(found.inputs[0])
    if found is None or rank is None:
        return False
    given = at.ints(found, 1, "axes", 13)
    first = None if not given else _axes(found, at, rank + len(given))
    given = at.ints(node, 1, "axes", 13)
    total = rank + len(first or ()) + len(given or ())
    second = None if not given else _axes(node, at, total)
    if not first or not second or len(first) + len(second) + rank != total:
        return False
    left = [axis for axis in range(total) if axis not in second]
    _write(node, at, found.inputs[0], sorted([*second, *(left[axis] for axis in first)]))
    return True


def _cancel(node: ir.Node, at: Rewriter) -> bool:
    """Squeeze of Unsqueeze, or the other way round, over the same axes -> the original."""
    other = "Unsqueeze" if node.op_type == "Squeeze" else "Squeeze"
    found = at.producer(node.inputs[0], other)
    if found is None or not at.is_lone(node):
        return False
    with_ones = node.inputs[0] if other == "Unsqueeze" else found.inputs[0]
    one, two = (at.ints(n, 1, "axes", 13) for n in (node, found))
    if not one or not two:
        return False
    rank = at.rank(with_ones)
    if rank:
        one, two = (tuple(axis % rank for axis in axes) for axes in (one, two))
    if sorted(one) != sorted(two) or len(set(one)) != len(one):
        return False
    if not rank and min(one) < 0 <= max(one):
        return False
    return bypass(node, at, found.inputs[0])


def _axes(node: ir.Node, at: Rewriter, rank: int) -> list[int] | None:
    """The axes of a Squeeze or Unsqueeze, from 0, each once; None if not known."""
    axes = at.ints(node, 1, "axes", 13)
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        return None
    found = sorted({axis % rank for axis in axes})
    return found if len(found) == len(axes) else None


def _write(node: ir.Node, at: Rewriter, source: ir.Value | None, axes: list[int]) -> None:
    if at.opset < 13:
        at.become(node, node.op_type, [source], {"axes": axes})
    else:
        at.become(node, node.op_type, [source, vector(axes, "axes", node, at)])


def _transposes(node: ir.Node, at: Rewriter) -> bool:
    """Transpose of Transpose -> one, or the original."""
    found = at.producer(node.inputs[0], "Transpose")
    if found is None:
        return False
    outer, inner = (n.attributes.get_ints("perm") for n in (node, found))
    rank = at.rank(found.inputs[0])
    if outer is None and inner is None:
        return bypass(node, at, found.inputs[0])  # both reverse the axes
    rank = len(outer or inner or ()) if rank is None else rank
    reverse = tuple(reversed(range(rank)))
    outer, inner = tuple(outer or reverse), tuple(inner or reverse)
    if sorted(outer) != sorted(reverse) or sorted(inner) != sorted(reverse):
        return False
    order = [inner[axis] for axis in outer]
    if order == sorted(order):
        return bypass(node, at, found.inputs[0])
    if ahead(node, at, "Transpose") is None:
        raise DeclinedError("the value between the two Transposes is used elsewhere")
    at.become(node, "Transpose", [found.inputs[0]], {"perm": order})
    return True


def _leading_axes(node: ir.Node, at: Rewriter) -> bool:
    """A broadcasting operator, without the axes of size 1 that are put ahead of one operand's.

    Beside a constant they stay: if they are dropped again behind, fuse-layout drops both.
    """
    if at.opset < 7 or len(node.inputs) != 2:
        return False
    for index in (0, 1):
        found = at.before(node, index, "Unsqueeze", "Reshape")
        if found is None or at.is_constant(node.inputs[1 - index]):
            continue
        small, large = at.dims(found.inputs[0]), at.dims(found.outputs[0])
        rank = at.rank(node.inputs[1 - index])
        if small is None or large is None or rank is None or rank < len(large):
            continue
        more = len(large) - len(small)
        if more > 0 and large == (*(1,) * more, *small):
            at.set_input(node, index, found.inputs[0])
            return True
    return False


# Not Max and Min: the sign that they give to a zero depends on the shapes.
_BROADCASTING = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul"),
    *("Or", "Sub", "Xor"),
)

RULES = (
    Rule("transpose-of-transpose", ("Transpose",), _transposes),
    Rule("unsqueeze-and-squeeze", ("Squeeze", "Unsqueeze"), _cancel),
    Rule("squeeze-of-squeeze", ("Squeeze",), _squeezes),
    Rule("unsqueeze-of-unsqueeze", ("Unsqueeze",), _unsqueezes),
    Rule("reshape-of-reshape", ("Reshape",), _reshape_of_view),
    Rule("reshape-of-reshape", ("Flatten", "Squeeze", "Unsqueeze", "Transpose"), _view_of_view),
    Rule("leading-axes-before-broadcast", _BROADCASTING, _leading_axes),
)
