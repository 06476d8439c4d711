"""What `quantize-weights` does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import Names, default_opset, is_standard, label, named_nodes, nodes_of
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.quantization import (
    Format,
    affine_parameters,
    dequantize,
    mse_parameters,
    quantize,
    ranges,
    symmetric_scale,
)
from graphopt.targets import Target
from graphopt_passes.quantize_weights.survey import (
    WEIGHT_INPUT,
    Declined,
    Layer,
    stored_format,
    survey,
)
from graphopt_passes.quantize_weights.writing import StoredWeight, gathers_first, opset_for, write
from graphopt_passes.set_opset.conversion import set_opset

if TYPE_CHECKING:
    from graphopt_passes.quantize_weights import QuantizeWeights

NAMES_IN_A_NOTE = 3
WHERE = "pass 'quantize-weights'"


def run(options: QuantizeWeights, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `QuantizeWeights`."""
    format = stored_format(options)
    _require_format(format, context.target)
    layers, declined = _survey(options, model, context.target)
    old = default_opset(model)
    opset = max([old, *(opset_for(layer, format, context.target) for layer in layers)])
    notes = []
    if opset > old:
        notes.append(f"raised the opset from {old} to {opset}, for its DequantizeLinear")
        set_opset(model, context, opset)
        layers, declined = _survey(options, model, context.target)
    names = Names(model)
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for layer in context.progress.track(layers, "quantizing weights", total=len(layers)):
        try:
            stored, error = _quantized(layer, options, format)
        except ValueError as problem:
            declined.append(Declined(layer.reads[0].node, f"its weight holds {problem}"))
            continue
        rows.append(_row(layer, format, stored, error))
        counts.update(f"{format.name}-{read.node.op_type.lower()}" for read in layer.reads)
        write(model, names, layer, stored, gather_first=gathers_first(layer, context.target))
    notes += _notes(model, declined)
    left = [{"node": label(item.node), "reason": item.reason} for item in declined]
    details = {"weights": rows, "float": left}
    return PassResult(model, bool(rows) or opset > old, counts, tuple(notes), details)


def _require_format(format: Format, target: Target) -> None:
    if format.name not in target.weight_formats:
        raise GraphoptError(
            f"the target '{target.name}' does not read {format.name} weights",
            where=WHERE,
            fix=f"it reads {', '.join(sorted(target.weight_formats))}",
        )


def _survey(
    options: QuantizeWeights, model: ir.Model, target: Target
) -> tuple[list[Layer], list[Declined]]:
    excluded = named_nodes(model, options.exclude, where=WHERE)
    return survey(model, options, target, excluded)


def _quantized(
    layer: Layer, options: QuantizeWeights, format: Format
) -> tuple[StoredWeight, float]:
    """The weight in few bits, and its signal-to-noise ratio in dB.

    Raises:
        ValueError: if the weight holds a NaN or an infinite value.
    """
    array = layer.tensor.numpy()
    axis, block = layer.axis, layer.block
    if options.method == "mse":
        scale, zero = mse_parameters(
            array,
            format,
            axis=axis,
            block_size=block,
            symmetric=options.symmetric,
            limits=format.limits,
        )
    elif options.symmetric:
        low, high = ranges(array, axis, block)
        scale = symmetric_scale(np.maximum(-low, high), format, array.dtype)
        zero = np.zeros(scale.shape, format.dtype)
    else:
        scale, zero = affine_parameters(*ranges(array, axis, block), format, array.dtype)
    # All integers of the format: nothing multiplies them as integers.
    data = quantize(array, scale, zero, format, axis=axis, block_size=block, precision=np.float32)
    back = dequantize(data, scale, zero, format, axis=axis, block_size=block)
    stored = StoredWeight(data, scale, None if options.symmetric else zero)
    return stored, signal_to_noise(array, back)


def signal_to_noise(array: np.ndarray[Any, Any], approximate: np.ndarray[Any, Any]) -> float:
    """In dB; infinite where nothing is lost."""
    exact = array.astype(np.float64)
    noise = float(np.square(exact - approximate.astype(np.float64)).sum())
    return 10 * float(np.log10(np.square(exact).sum() / noise)) if noise else float("inf")


def _row(layer: Layer, format: Format, stored: StoredWeight, decibels: float) -> dict[str, Any]:
    return {
        "weight": str(layer.weight.name),
        "nodes": [label(read.node) for read in layer.reads],
        "format": format.name,
        "axis": layer.axis,
        "block": layer.block,
        "sqnr_db": round(decibels, 2) if np.isfinite(decibels) else None,
        "bytes_before": layer.tensor.nbytes,
        "bytes_after": stored.nbytes(format),
    }


def _notes(model: ir.Model, declined: list[Declined]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for item in declined:
        reasons.setdefault((item.node.op_type, item.reason), []).append(label(item.node))
    notes = [
        f"{len(nodes)} {operator} left in float ({reason}): {_listed(nodes)}"
        for (operator, reason), nodes in reasons.items()
    ]
    operators = [name for name in WEIGHT_INPUT if name != "Gather"]
    top = set(model.graph)
    inner = [label(n) for n in nodes_of(model) if n not in top and is_standard(n, *operators)]
    if inner:
        notes.append(f"{len(inner)} in subgraphs or functions left in float: {_listed(inner)}")
    return notes


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:NAMES_IN_A_NOTE])
    more = len(names) - NAMES_IN_A_NOTE
    return f"{shown} and {more} more" if more > 0 else shown
