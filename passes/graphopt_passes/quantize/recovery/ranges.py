"""The scale of a tensor of data, by what it does to the layers behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed
from graphopt.ir import is_standard

Array: TypeAlias = "NDArray[Any]"

AHEAD = 4
"""How many layers behind the tensor the error is looked at. Close by, all that is lost counts the
same; far behind, chance decides."""
FACTORS = (2.5, 2.0, 1.6, 1.3, 1.15, 1.07, 1 / 1.07, 1 / 1.15, 1 / 1.3)
"""What the scale is multiplied with."""
PATIENCE = 2
"""After so many factors on one side that are no better than what there was, the search ends."""
GAIN = 0.995
"""The error must fall to this part of what it was, or it is chance."""


@dataclass(frozen=True)
class Pair:
    """The QuantizeLinear and DequantizeLinear of a tensor, with a scale of their own."""

    quantize: ir.Node
    dequantize: ir.Node
    scale: ir.Value

    @staticmethod
    def of(quantize: ir.Node) -> Pair | None:
        """The pair that `quantize` begins, or None if it does not begin one."""
        uses = tuple(quantize.outputs[0].uses())
        scale = quantize.inputs[1]
        if len(uses) != 1 or scale is None or not scale.is_initializer():
            return None
        dequantize = uses[0].node
        mine = is_standard(dequantize, "DequantizeLinear") and dequantize.inputs[1] is scale
        tensor = scale.const_value
        if not mine or len(scale.uses()) != 2 or tensor is None or tensor.size != 1:
            return None
        return Pair(quantize, dequantize, scale)

    @property
    def factors(self) -> tuple[float, ...]:
        """What its scale may be multiplied with.

        Where there is a zero point, the integers stand for no more than the values that the
        tensor can take: a Clip before it may be left to them.
        """
        zero = self.quantize.inputs[2] if len(self.quantize.inputs) > 2 else None
        tensor = None if zero is None else zero.const_value
        symmetric = tensor is not None and not tensor.numpy().any()
        signed = tensor is not None and tensor.dtype.is_signed()
        return tuple(f for f in FACTORS if f < 1 or (symmetric and signed))


def values_ahead(
    pair: Pair, layers: Collection[ir.Node], known: Collection[str], order: Mapping[ir.Node, int]
) -> list[str]:
    """What is `AHEAD` layers behind `pair` on the longest way, or the end of the graph before that.

    On the longest, for by the skips of a residual net its very end is no layer away.

    Args:
        layers: the nodes that count as layers.
        known: the names that will do.
        order: the places of the graph's nodes.
    """
    start = pair.dequantize.outputs[0]
    depths, found = {start: 0}, dict[str, None]()
    left: list[tuple[int, ir.Node]] = []
    seen: set[ir.Node] = set()
    near: set[ir.Node] = set()  # of those that are left: they read what is not far enough yet

    def follow(value: ir.Value) -> None:
        for node, _ in value.uses():
            if node not in order:
                continue
            if depths[value] < AHEAD:
                near.add(node)
            if node not in seen:
                seen.add(node)
                heappush(left, (order[node], node))

    follow(start)
    while near:
        _, node = heappop(left)
        passed = max(depths.get(value, 0) for value in node.inputs if value is not None)
        for output in node.outputs:
            depths[output] = passed + (node in layers)
            is_end = output.is_graph_output() and depths[output] < AHEAD
            if node in near and (depths[output] >= AHEAD or is_end):
                found[str(output.name)] = None
            if not is_end:
                follow(output)
        near.discard(node)
    return [name for name in found if name in known]


def best_factor(
    run: Callable[[int, Feed], Feed],
    wanted: Mapping[int, Feed],
    pair: Pair,
    held_out: Sequence[int],
) -> tuple[float, float, float]:
    """The factor of least error; 1 if that of the batches `held_out` does not fall with it.

    Args:
        run: gives, for a batch and a scale by its name, the values of the quantized model.
        wanted: those of the float model, for each batch.

    Returns:
        The factor, and the error of the held-out batches before and after.
    """
    assert pair.scale.const_value is not None
    scale = pair.scale.const_value.numpy()
    fit = [number for number in wanted if number not in held_out]

    def error(factor: float, numbers: Sequence[int]) -> float:
        given = {str(pair.scale.name): np.asarray(scale * scale.dtype.type(factor))}
        return _error([(wanted[n], run(n, given)) for n in numbers])

    errors = {1.0: error(1.0, fit)}
    for side in _sides(pair.factors):
        worse = 0
        for factor in side:
            errors[factor] = error(factor, fit)
            worse = 0 if errors[factor] <= min(errors.values()) else worse + 1
            if worse == PATIENCE:
                break
    factor, before = min(errors, key=errors.__getitem__), error(1.0, held_out)
    if errors[factor] < GAIN * errors[1.0]:
        after = error(factor, held_out)
        if after < GAIN * before:
            return factor, before, after
    return 1.0, before, before


def _sides(factors: Sequence[float]) -> tuple[list[float], list[float]]:
    """Those above 1 and those below, each from 1 outwards."""
    above = sorted(factor for factor in factors if factor > 1)
    return above, sorted((factor for factor in factors if factor < 1), reverse=True)


def _error(results: list[tuple[Feed, Feed]]) -> float:
    """The error relative to what is wanted, as the root of the mean square over the values."""
    total, names = 0.0, list(results[0][0])
    for name in names:
        square = sum(_square(wanted[name]) for wanted, _ in results)
        off = sum(_square(got[name] - wanted[name]) for wanted, got in results)
        total += off / square if square else 0.0
    return math.sqrt(total / len(names))


def _square(array: Array) -> float:
    flat = array.astype(np.float64).reshape(-1)
    return float(flat @ flat)
