"""What `quantize` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration import Histogram
from graphopt.errors import GraphoptError
from graphopt.ir import is_standard, label, nodes_of
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.targets.quantization import QuantizationRules, quantization_rules
from graphopt_passes.equalize.implementation import equalize, summary
from graphopt_passes.quantize.candidates import Candidate, Declined
from graphopt_passes.quantize.canonical import canonicalize, lifted, needed_opset
from graphopt_passes.quantize.choice import choose_floating, measures, parts
from graphopt_passes.quantize.existing import quantized_already
from graphopt_passes.quantize.gates import spelled_out
from graphopt_passes.quantize.grids import Grid
from graphopt_passes.quantize.placement import Placement
from graphopt_passes.quantize.quantizer import Quantized, Quantizer
from graphopt_passes.quantize.weights import QuantizedWeight

if TYPE_CHECKING:
    from graphopt.data.feeds import Samples
    from graphopt_passes.quantize import Quantize

NAMES_IN_A_NOTE = 3


def run(options: Quantize, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `Quantize`."""
    rules = quantization_rules(context.target.family, options.format)
    numbers = rules.numbers
    if numbers.precision not in context.target.precisions:
        raise GraphoptError(
            f"the target '{context.target.name}' does not compute in {numbers.precision}",
            where="pass 'quantize'",
        )
    prepared, done = _prepared(options, rules, model, context)
    quantizer = Quantizer(prepared, options, context, model)
    groups: list[dict[str, Any]] = []
    if options.equalize and context.calibration is not None:
        prepared, groups = equalize(
            prepared,
            context,
            context.calibration,
            options.samples,
            rules=rules,
            method=options.method,
            layers=quantizer.layers,
        )
        quantizer = Quantizer(prepared, options, context, model)
        done += summary(groups)
    notes = done + quantizer.notes + _notes(prepared, quantizer)
    details: dict[str, Any] = {"float": [_float_row(item) for item in quantizer.declined]}
    if groups:
        details["equalized"] = groups
    if not quantizer.has_work:
        return PassResult(model, False, notes=notes, details=details)
    samples, held_out = parts(options, _samples(context))
    histograms = quantizer.calibrate(samples, any_choice=measures(options))
    choice = choose_floating(quantizer, held_out, context, options)
    quantized = quantizer.write(choice.floating)
    notes += choice.notes + _calibration_notes(samples, quantized.placement, histograms)
    details |= choice.details
    details["tensors"] = [
        _tensor_row(value, histograms[str(value.name)], grid)
        for value, grid in quantized.grids.items()
    ]
    details["quantized"] = [_node_row(c, quantized.weights[c.node]) for c in quantized.candidates]
    rewrites = _rewrites(quantized, quantizer.rules)
    return PassResult(quantized.model, True, rewrites, notes, details, unmet=choice.unmet)


def _prepared(
    options: Quantize, rules: QuantizationRules, model: ir.Model, context: PassContext
) -> tuple[ir.Model, tuple[str, ...]]:
    """The model to quantize, not `model` itself if that is changed for it, and notes on it."""
    notes: tuple[str, ...] = ()
    if options.canonicalize and quantized_already(model) is None:
        model, notes = canonicalize(model, context)
    model, more = lifted(model, context, needed_opset(model, rules.numbers))
    return spelled_out(model, rules), notes + more


def _samples(context: PassContext) -> Samples:
    if context.calibration is None:
        raise GraphoptError(
            "needs calibration data", where="pass 'quantize'", fix="give --calib SOURCE"
        )
    return context.calibration


def _rewrites(quantized: Quantized, rules: QuantizationRules) -> dict[str, int]:
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


def _notes(model: ir.Model, quantizer: Quantizer) -> tuple[str, ...]:
    rules = quantizer.rules
    reasons: dict[tuple[str, str], list[str]] = {}
    for item in quantizer.declined:
        reasons.setdefault((item.node.op_type, item.reason), []).append(label(item.node))
    notes = [
        f"{len(nodes)} {operator} left in float ({reason}): {_listed(nodes)}"
        for (operator, reason), nodes in reasons.items()
    ]
    top = set(model.graph)
    inner = [n for n in nodes_of(model) if n not in top and is_standard(n, *rules.operators)]
    if inner:
        notes.append(
            f"{len(inner)} node{'s' if len(inner) > 1 else ''} in subgraphs or functions left in "
            "float: "
            f"{_listed([label(node) for node in inner])}"
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
            f"{len(norms)} BatchNormalization left behind what is quantized: {_listed(norms)}; "
            "run fuse-affine first, for speed and for better scales"
        )
    return tuple(notes)


def _calibration_notes(
    samples: Samples, placement: Placement, histograms: Mapping[str, Histogram]
) -> tuple[str, ...]:
    notes = []
    if samples.is_random:
        notes.append(f"the scales come from {samples.description}: expect a poor accuracy")
    dead = [str(v.name) for v in placement.tensors if histograms[str(v.name)].largest == 0]
    if dead:
        notes.append(f"always zero on the calibration data: {_listed(dead)}")
    return tuple(notes)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:NAMES_IN_A_NOTE])
    more = len(names) - NAMES_IN_A_NOTE
    return f"{shown} and {more} more" if more > 0 else shown


def _float_row(item: Declined) -> dict[str, Any]:
    return {"node": label(item.node), "op_type": item.node.op_type, "reason": item.reason}


def _node_row(candidate: Candidate, weight: QuantizedWeight) -> dict[str, Any]:
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


def _tensor_row(value: ir.Value, histogram: Histogram, grid: Grid) -> dict[str, Any]:
    return {
        "tensor": value.name,
        "scale": float(grid.scale),
        "zero_point": int(grid.zero_point),
        "low": histogram.low if histogram.size else None,
        "high": histogram.high if histogram.size else None,
        "clipped": histogram.clipped(max(-grid.limits[0], grid.limits[1])),
    }
