"""Layers that are not worth their pairs: alone between float nodes, with little to compute."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from graphopt.ir import is_standard
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.placement import Placement, place

ALONE = "alone between float nodes, with too little to compute to be worth its pair"
FIRST = "the first of its layers, with too little to compute to be worth its pair"


def islands(
    model: ir.Model,
    candidates: list[Candidate],
    rules: QuantizationRules,
    excluded: Collection[ir.Node],
) -> list[tuple[Candidate, str]]:
    """Those of `candidates` that `rules` rather leave float, each with the reason.

    Leaving one out may leave another alone, so it goes on until none is.
    """
    found: list[tuple[Candidate, str]] = []
    small = [c for c in candidates if _is_small(c, rules)]
    large = [c for c in candidates if c not in small]
    while small:
        placement = place(model, large + small, rules, excluded)
        integer = {c.node for c in (*large, *small)} | placement.integer
        left = [(c, _reason(c, integer, placement, rules)) for c in small]
        out = [(c, reason) for c, reason in left if reason is not None]
        if not out:
            break
        found += out
        small = [c for c, reason in left if reason is None]
    return found


def _is_small(candidate: Candidate, rules: QuantizationRules) -> bool:
    """Whether a layer may be left out, if what is around it says so too."""
    return (
        reuse(candidate) < rules.island_reuse
        or products(candidate) < rules.first_products
        or (_is_grouped(candidate) and not rules.grouped_alone)
    )


def _reason(
    candidate: Candidate,
    integer: Collection[ir.Node],
    placement: Placement,
    rules: QuantizationRules,
) -> str | None:
    """Why a small layer had better stay float, if it had."""
    if candidate.data.producer() is None and not candidate.node.outputs[0].uses():
        return None  # the model is this layer: it has no float neighbours either
    through = (*rules.epilogues, *rules.movers, *rules.selectors, *rules.joins)
    if _reached(candidate.data, integer, through, upwards=True):
        return None
    if products(candidate) < rules.first_products:
        return FIRST
    below = _reached(candidate.node.outputs[0], integer, through, upwards=False)
    return None if below or _has_sibling(candidate, integer, placement) else ALONE


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


def products(candidate: Candidate) -> float:
    """How many products a layer sums for each number that it gives; inf for a grouped Conv.

    Such a Conv stands between others, and is as cheap in any type.
    """
    shape = candidate.tensor.shape.numpy()
    if _is_grouped(candidate):
        return math.inf
    return float(np.prod(shape) / max(shape[candidate.axis], 1))


def _is_grouped(candidate: Candidate) -> bool:
    return candidate.node.op_type == "Conv" and candidate.node.attributes.get_int("group", 1) > 1


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
