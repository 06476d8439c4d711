"""Pad of Pad, Expand of Expand, Tile of Tile."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.collapse_chains.links import input_of, vector

_INT64_MAX = 2**63 - 1


def _pads(node: ir.Node, at: Rewriter) -> bool:
    """Pad of Pad with the same constant -> one."""
    found = at.before(node, 0, "Pad")
    if found is None or at.opset < 2:
        return False
    if any(_mode(n) != "constant" for n in (node, found)):
        return False
    first, second = _amounts(found, at), _amounts(node, at)
    if first is None or second is None or len(first) != len(second):
        return False
    if min(*first, *second, 0) < 0:
        raise DeclinedError("one of the two Pads takes elements away")
    if not _same_value(found, node, at):
        raise DeclinedError("the two Pads add different values")
    total = [one + two for one, two in zip(first, second, strict=True)]
    if at.opset < 11:
        value: float = node.attributes.get_float("value", 0.0)
        at.become(node, "Pad", [found.inputs[0]], {"pads": total, "value": value})
        return True
    fill = input_of(node, 2)
    inputs = [found.inputs[0], vector(total, "pads", node, at)]
    at.become(node, "Pad", inputs if fill is None else [*inputs, fill])
    return True


def _mode(node: ir.Node) -> str:
    mode: str = node.attributes.get_string("mode", "constant")
    return mode


def _amounts(node: ir.Node, at: Rewriter) -> tuple[int, ...] | None:
    """How much is added ahead of and behind each axis; None if not known, or of some axes only."""
    if input_of(node, 3) is not None:
        return None
    return at.ints(node, 1, "pads", 11) or None


def _same_value(one: ir.Node, other: ir.Node, at: Rewriter) -> bool:
    if at.opset < 11:
        values = [n.attributes.get_float("value", 0.0) for n in (one, other)]
        return values[0] == values[1] and np.signbit(values[0]) == np.signbit(values[1])
    value, another = input_of(one, 2), input_of(other, 2)
    if value is another:
        return True
    arrays = [None if v is None else at.small(v) for v in (value, another)]
    given = [array for array in arrays if array is not None and array.size == 1]
    if len(given) < sum(v is not None for v in (value, another)):
        return False
    zero = np.zeros((), given[0].dtype)
    fills = [zero if array is None else array for array in arrays]
    return fills[0].tobytes() == fills[1].tobytes()


def _expands(node: ir.Node, at: Rewriter) -> bool:
    """Expand of Expand to constant shapes -> one."""
    found = at.before(node, 0, "Expand")
    if found is None:
        return False
    first, second = (at.facts[n.inputs[1]].ints() for n in (found, node))
    if first is None or second is None:
        return False
    rank = max(len(first), len(second))
    shape = []
    for a, b in zip(*([1] * (rank - len(s)) + s for s in (first, second)), strict=True):
        if a != b and 1 not in (a, b):
            return False
        shape.append(b if a == 1 else a)
    at.become(node, "Expand", [found.inputs[0], vector(shape, "shape", node, at)])
    return True


def _tiles(node: ir.Node, at: Rewriter) -> bool:
    """Tile of Tile -> one."""
    found = at.before(node, 0, "Tile")
    if found is None or at.opset < 6:
        return False
    first, second = (at.facts[n.inputs[1]].ints() for n in (found, node))
    if first is None or second is None or len(first) != len(second):
        return False
    repeats = [one * two for one, two in zip(first, second, strict=True)]
    if min(*first, *second, 0) < 0 or max(*repeats, 0) > _INT64_MAX:
        return False
    at.become(node, "Tile", [found.inputs[0], vector(repeats, "repeats", node, at)])
    return True


RULES = (
    Rule("pad-of-pad", ("Pad",), _pads),
    Rule("expand-of-expand", ("Expand",), _expands),
    Rule("tile-of-tile", ("Tile",), _tiles),
)
