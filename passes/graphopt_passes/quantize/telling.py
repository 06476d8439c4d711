"""What `quantize` tells of what it did: notes for people, rows for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphopt.calibration import Histogram
from graphopt.data.feeds import Samples
from graphopt.ir import is_standard, label, nodes_of
from graphopt.pipeline.notes import quoted
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.grids import Grid
from graphopt_passes.quantize.placement import Placement
from graphopt_passes.quantize.quantizer import Quantized, Quantizer
from graphopt_passes.quantize.weights import QuantizedWeight
from graphopt_passes.quantize_weights.left import Left, notes_on

Row = dict[str, Any]


def rewrites(quantized: Quantized, rules: QuantizationRules) -> dict[str, int]:
    """How many of each: layers by operator (`int8-conv`), pairs, skips, and other integer nodes."""
    placement, precision = quantized.placement, rules.numbers.precision
    nodes = [*(c.node for c in quantized.candidates), *placement.integer]
    operators = (*rules.operators, *sorted(rules.followers))
    counts = {
        f"{precision}-{operator.lower()}": sum(node.op_type == operator for node in nodes)
        for operator in operators
    }
    skips = sum(
        is_standard(node, *rules.additions)
        for uses in placement.tensors.values()
        for node, _ in uses
    )
    counts |= {"qdq-pair": len(placement.tensors), f"{precision}-skip": skips}
    return {name: count for name, count in counts.items() if count}


def of_floats(quantizer: Quantizer) -> tuple[str, ...]:
    """What stays float, and why."""
    model, rules = quantizer.model, quantizer.rules
    notes = notes_on(quantizer.declined, "left in float")
    top = set(model.graph)
    inner = [n for n in nodes_of(model) if n not in top and is_standard(n, *rules.operators)]
    if inner:
        notes.append(
            f"{len(inner)} node{'s' if len(inner) > 1 else ''} in subgraphs or functions left in "
            f"float: {quoted(label(node) for node in inner)}"
        )
    integer = {candidate.node for candidate in quantizer.candidates}
    norms = [
        label(node)
        for node in model.graph
        if is_standard(node, "BatchNormalization")
        and node.inputs[0] is not None
        and node.inputs[0].producer() in integer
    ]
    if norms:
        notes.append(
            f"{len(norms)} BatchNormalization left behind what is quantized: {quoted(norms)}; "
            "run fuse-affine first, for speed and for better scales"
        )
    return tuple(notes)


def of_calibration(
    samples: Samples | None, placement: Placement, histograms: Mapping[str, Histogram]
) -> tuple[str, ...]:
    """What is to be known of where the ranges come from."""
    notes = []
    if samples is not None and samples.is_random:
        notes.append(f"the scales come from {samples.description}: expect a poor accuracy")
    names = [str(value.name) for value in placement.tensors]
    dead = [name for name in names if name in histograms and histograms[name].largest == 0]
    if dead:
        notes.append(f"always zero on the calibration data: {quoted(dead)}")
    return tuple(notes)


def float_rows(declined: Iterable[Left]) -> list[Row]:
    return [
        {"node": label(item.node), "op_type": item.node.op_type, "reason": item.reason}
        for item in declined
    ]


def node_rows(quantized: Quantized) -> list[Row]:
    """What became of each layer, and of its weight."""
    return [_node_row(c, quantized.weights[c.node]) for c in quantized.candidates]


def tensor_rows(quantized: Quantized, histograms: Mapping[str, Histogram]) -> list[Row]:
    """The grid of each tensor; what values it took only if it was watched."""
    return [
        _tensor_row(str(value.name), histograms.get(str(value.name), Histogram()), grid)
        for value, grid in quantized.grids.items()
    ]


def _node_row(candidate: Candidate, weight: QuantizedWeight) -> Row:
    """What became of a node: `tensor` is what is quantized for it, perhaps above a few movers."""
    value = candidate.node.inputs[candidate.rule.data]
    while value is not None and (producer := value.producer()) is not None:
        value = producer.inputs[0]
        if is_standard(producer, "QuantizeLinear"):
            break
    scale = weight.scale.astype(np.float64)
    return {
        "node": label(candidate.node),
        "op_type": candidate.node.op_type,
        "tensor": None if value is None else value.name,
        "weight": candidate.weight.name,
        "axis": candidate.axis,
        "channels": len(scale),
        "weight_scale_min": float(scale.min()),
        "weight_scale_max": float(scale.max()),
    }


def _tensor_row(name: str, histogram: Histogram, grid: Grid) -> Row:
    return {
        "tensor": name,
        "scale": float(grid.scale),
        "zero_point": int(grid.zero_point),
        "low": histogram.low if histogram.size else None,
        "high": histogram.high if histogram.size else None,
        "clipped": histogram.clipped(max(-grid.limits[0], grid.limits[1])),
    }
