"""Layers that are not worth their pairs: alone between float nodes, with little to compute."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from graphopt.ir import is_standard
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.placement import Placement, place

ALONE = "alone between float nodes, with too little to compute to be worth its pair"


def islands(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: Collection[ir.Node],
) -> list[Candidate]:
    """Those of `candidates` that `rules` rather leave float.

    Leaving one out may leave another alone, so it goes on until none is.
    """
    found: list[Candidate] = []
    small = [c for c in candidates if reuse(c) < rules.island_reuse]
    large = [c for c in candidates if c not in small]
    while small:
        placement = place(model, large + small, rules, excluded)
        integer = {c.node for c in (*large, *small)} | placement.integer
        alone = [c for c in small if _is_alone(c, integer, placement, rules)]
        if not alone:
            break
        found += alone
        small = [c for c in small if c not in alone]
    return found


def _is_alone(
    candidate: Candidate,
    integer: Collection[ir.Node],
    placement: Placement,
    rules: QuantizationRules,
) -> bool:
    """Whether a small layer has float neighbours only."""
    if candidate.data.producer() is None and not candidate.node.outputs[0].uses():
        return False  # the model is this layer: it has no float neighbours either
    through = (*rules.epilogues, *rules.movers, *rules.selectors, *rules.joins)
    return not (
        _reached(candidate.data, integer, through, upwards=True)
        or _reached(candidate.node.outputs[0], integer, through, upwards=False)
        or _has_sibling(candidate, integer, placement)
    )


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


def _has_sibling(candidate: Candidate, integer: Collection[ir.Node], placement: Placement) -> bool:
    """Whether another integer node reads the same quantized tensor."""
    return any(
        node in integer and node is not candidate.node
        for uses in placement.tensors.values()
        if (candidate.node, candidate.rule.data) in uses
        for node, _ in uses
    )


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
