"""What a Pad does, whatever its opset."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter


@dataclass(frozen=True)
class Padding:
    """How much a Pad adds to each spatial axis, at its begin and its end, and what it writes."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    value: float


def padding_of(node: ir.Node, spatial: int, at: Rewriter) -> Padding:
    """What the Pad `node` does to a value of `spatial` axes behind batch and channels.

    Raises:
        DeclinedError: if pads of a convolution or a pooling cannot do that.
    """
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        raise DeclinedError(f"it pads in mode '{mode}'")
    value = _value(node, at)
    amounts = _amounts(node, at)
    if amounts is None:
        raise DeclinedError("how much it pads is not constant")
    rank = spatial + 2
    axes = _axes(node, rank, at)
    if axes is None or len(amounts) != 2 * len(axes):
        raise DeclinedError("which axes it pads is not known")
    begins, ends = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        begins[axis], ends[axis] = amounts[index], amounts[index + len(axes)]
    if any(begins[:2]) or any(ends[:2]):
        raise DeclinedError("it pads the batch or the channels")
    if min(begins + ends) < 0:
        raise DeclinedError("it crops")
    return Padding(tuple(begins[2:]), tuple(ends[2:]), value)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _value(node: ir.Node, at: Rewriter) -> float:
    if at.opset < 11:
        return float(node.attributes.get_float("value", 0.0))
    given = _input(node, 2)
    value = 0.0 if given is None else at.scalar(given)
    if value is None:
        raise DeclinedError("what it pads with is not constant")
    return value


def _amounts(node: ir.Node, at: Rewriter) -> list[int] | None:
    if at.opset < 11:
        return list(node.attributes.get_ints("pads", ())) or None
    return at.facts[_input(node, 1)].ints()


def _axes(node: ir.Node, rank: int, at: Rewriter) -> list[int] | None:
    """The axes that the amounts are for, counted from 0."""
    given = _input(node, 3)
    if at.opset < 18 or given is None:
        return list(range(rank))
    axes = at.facts[given].ints()
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        return None
    axes = [axis % rank for axis in axes]
    return axes if len(set(axes)) == len(axes) else None
