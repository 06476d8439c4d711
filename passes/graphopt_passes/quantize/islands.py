"""Layers that are not worth their pairs: alone between float nodes, with little to compute."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from graphopt.ir import is_standard
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.placement import Placement, place

REASON = "alone between float nodes, with too little to compute to be worth its pair"


def islands(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: Collection[ir.Node],
) -> list[Candidate]:
    """Those of `candidates` that `rules` rather leave float; `place` is asked for the others.

    Leaving one out may leave another alone, so it goes on until none is.
    """
    found: list[Candidate] = []
    rest = [candidate for candidate in candidates if reuse(candidate) < rules.island_reuse]
    large = [candidate for candidate in candidates if candidate not in rest]
    while rest:
        placement = place(model, large + rest, rules, excluded)
        integer = {c.node for c in (*large, *rest)} | placement.integer
        alone = [c for c in rest if not _has_neighbour(c, integer, placement, rules)]
        if not alone:
            break
        found += alone
        rest = [candidate for candidate in rest if candidate not in alone]
    return found


def reuse(candidate: Candidate) -> float:
    """How many multiply-accumulates each element of the data of a layer enters, about.

    For a matrix that is its columns; for a Conv, channels and taps, over what its strides skip.
    """
    shape = candidate.tensor.shape.numpy()
    node = candidate.node
    if node.op_type != "Conv":
        return float(shape[candidate.axis])
    strides = node.attributes.get_ints("strides", ())
    inputs = shape[1] * node.attributes.get_int("group", 1)
    return float(np.prod(shape) / max(inputs, 1) / np.prod(strides or (1,)))


def _has_neighbour(
    candidate: Candidate,
    integer: Collection[ir.Node],
    placement: Placement,
    rules: QuantizationRules,
) -> bool:
    """Whether an integer node is above or below, or reads the same quantized tensor.

    A model that is nothing but this layer has no float neighbours either.
    """
    if candidate.data.producer() is None and not candidate.node.outputs[0].uses():
        return True
    through = (*rules.epilogues, *rules.movers, *rules.selectors, *rules.joins)
    above = _reached(candidate.data, integer, through, upwards=True)
    below = _reached(candidate.node.outputs[0], integer, through, upwards=False)
    siblings = any(
        node in integer and node is not candidate.node
        for uses in placement.tensors.values()
        if (candidate.node, candidate.rule.data) in uses
        for node, _ in uses
    )
    return above or below or siblings


def _reached(
    start: ir.Value, integer: Collection[ir.Node], through: tuple[str, ...], *, upwards: bool
) -> bool:
    """Whether a walk from `start` over operators that fuse or move meets an integer node."""
    pending, seen = [start], {start}
    while pending:
        value = pending.pop()
        nodes = [value.producer()] if upwards else [use.node for use in value.uses()]
        for node in nodes:
            if node is None:
                continue
            if node in integer:
                return True
            if is_standard(node, *through):
                ahead = node.inputs if upwards else node.outputs
                fresh = [v for v in ahead if v is not None and v not in seen]
                seen.update(fresh)
                pending.extend(fresh)
    return False
