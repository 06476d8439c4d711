"""Which dimensions of an output are free where onnx's own inference cannot tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from graphopt.ir import is_standard
from graphopt_passes.prune_channels.dims import Dim

if TYPE_CHECKING:
    from graphopt_passes.prune_channels.facts import Facts

Symbols: TypeAlias = "tuple[int | str | None, ...]"
"""Dimensions: a number, the name of a free one, or None where nothing is known."""


def more_symbols(facts: Facts, node: ir.Node, concrete: Symbols, inferred: Symbols) -> Symbols:
    """`inferred`, with more of its dimensions known."""
    if is_standard(node, "Reshape", "Expand"):
        return _computed_symbols(facts, node, concrete, inferred)
    if is_standard(node, "Range"):
        return _range_symbols(facts, node, inferred)
    if is_standard(node, *_BROADCASTING) and len(inferred) == len(concrete):
        return _broadcast_symbols(facts, node, concrete, inferred)
    return inferred


_BROADCASTING = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Sub", "Where")


def _broadcast_symbols(
    facts: Facts, node: ir.Node, concrete: Symbols, inferred: Symbols
) -> Symbols:
    """Where an axis of unknown length meets one that is named, and both are longer than 1."""
    rank, symbols = len(concrete), list(inferred)
    names = [str(value.name) for value in node.inputs if value is not None]
    for axis, length in enumerate(concrete):
        if symbols[axis] is not None or length == 1:
            continue
        places = [(name, axis - rank + len(facts.shapes[name])) for name in names]
        met = {
            facts.symbols[name][place]
            for name, place in places
            if place >= 0 and facts.shapes[name][place] == length
        } - {None}
        if len(met) == 1:
            symbols[axis] = met.pop()
    return tuple(symbols)


def _range_symbols(facts: Facts, node: ir.Node, inferred: Symbols) -> Symbols:
    """From 0 to a dimension, in steps of 1."""
    start, limit, step = (facts.dims_of(value) for value in node.inputs)
    if start is None or limit is None or step is None or inferred != (None,):
        return inferred
    if (start.item(), step.item()) != (Dim(0), Dim(1)):
        return inferred
    return (limit.item().value if limit.item().static else limit.item().symbol,)


def _computed_symbols(facts: Facts, node: ir.Node, concrete: Symbols, inferred: Symbols) -> Symbols:
    """The dimensions that a Reshape or Expand to a partly computed shape gives."""
    dims = facts.dims_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if dims is None or dims.ndim != 1:
        return inferred
    if node.attributes.get_int("allowzero", 0) != 0 and any(dim.value == 0 for dim in dims):
        return inferred
    source = facts.symbols[str(node.inputs[0].name)] if node.inputs[0] is not None else ()
    if node.op_type == "Expand":
        return _expand_symbols(source, list(dims), concrete)
    return _reshape_symbols(source, list(dims), concrete)


def _expand_symbols(source: Symbols, dims: list[Dim], concrete: Symbols) -> Symbols:
    rank = len(concrete)
    old = (1,) * (rank - len(source)) + source
    new = [Dim(1)] * (rank - len(dims)) + dims
    symbols: list[int | str | None] = []
    for before, dim in zip(old, new, strict=True):
        if before == 1:
            symbols.append(dim.value if dim.static else dim.symbol)
        else:
            # A dimension that is not 1 stays, whatever the shape says: 1, or the same again.
            symbols.append(before)
    return tuple(symbols)


def _reshape_symbols(source: Symbols, dims: list[Dim], concrete: Symbols) -> Symbols:
    symbols: list[int | str | None] = []
    rest: int | None = None
    for axis, dim in enumerate(dims):
        if dim.static and dim.value == 0:
            symbols.append(source[axis] if axis < len(source) else None)
        elif dim.static and dim.value == -1:
            rest = axis
            symbols.append(None)
        else:
            symbols.append(dim.value if dim.static else dim.symbol)
    if rest is None:
        return tuple(symbols)
    # What the -1 stands for is a number if every free dimension of the input is named elsewhere.
    remaining = [symbol for symbol in source if not isinstance(symbol, int)]
    for symbol in symbols[:rest] + symbols[rest + 1 :]:
        if isinstance(symbol, int):
            continue
        if symbol is None or symbol not in remaining:
            return tuple(symbols)
        remaining.remove(symbol)
    numbers = [dim for dim in symbols if isinstance(dim, int)]
    if not remaining:
        symbols[rest] = concrete[rest]
    elif len(remaining) == 1 and math.prod(numbers) == math.prod(
        dim for dim in source if isinstance(dim, int)
    ):
        symbols[rest] = remaining[0]
    return tuple(symbols)
