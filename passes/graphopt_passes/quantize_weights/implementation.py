"""What `quantize-weights` does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import Names, default_opset, is_standard, label, named_nodes, nodes_of
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.pipeline.notes import quoted
from graphopt.quantization import (
    Format,
    affine_parameters,
    dequantize,
    mse_parameters,
    quantize,
    ranges,
    sqnr_db,
    symmetric_scale,
)
from graphopt.targets import Target
from graphopt_passes.quantize_weights.left import Left, notes_on, rows_on
from graphopt_passes.quantize_weights.survey import (
    WEIGHT_INPUT,
    Layer,
    stored_format,
    survey,
)
from graphopt_passes.quantize_weights.writing import StoredWeight, gathers_first, opset_for, write
from graphopt_passes.set_opset.conversion import set_opset

if TYPE_CHECKING:
    from graphopt_passes.quantize_weights import QuantizeWeights

WHERE = "pass 'quantize-weights'"


def run(options: QuantizeWeights, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `QuantizeWeights`."""
    format = stored_format(options)
    _require_format(format, context.target)
    layers, left = _survey(options, model, context.target)
    old = default_opset(model)
    opset = max([old, *(opset_for(layer, format, context.target) for layer in layers)])
    notes = []
    if opset > old:
        notes.append(f"raised the opset from {old} to {opset}, for its DequantizeLinear")
        set_opset(model, context, opset)
        layers, left = _survey(options, model, context.target)
    names = Names(model)
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for layer in context.progress.track(layers, "quantizing weights", total=len(layers)):
        try:
            stored, decibels = _quantized(layer, options, format)
        except ValueError as problem:
            left.append(Left(layer.reads[0].node, f"its weight holds {problem}"))
            continue
        rows.append(_row(layer, format, stored, decibels))
        counts.update(f"{format.name}-{read.node.op_type.lower()}" for read in layer.reads)
        write(model, names, layer, stored, gather_first=gathers_first(layer, context.target))
    notes += _notes(model, left)
    details = {"weights": rows, "float": rows_on(left)}
    return PassResult(model, bool(rows) or opset > old, counts, tuple(notes), details)


def _require_format(format: Format, target: Target) -> None:
    if format.name not in target.weight_formats:
        raise GraphoptError(
            f"the target '{target.name}' does not read {format.name} weights"
            f"{target.because(format.name)}",
            where=WHERE,
            fix=f"it reads {', '.join(sorted(target.weight_formats))}",
        )


def _survey(
    options: QuantizeWeights, model: ir.Model, target: Target
) -> tuple[list[Layer], list[Left]]:
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
    return stored, sqnr_db(array, back)


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


def _notes(model: ir.Model, left: list[Left]) -> list[str]:
    notes = notes_on(left, "left in float")
    operators = [name for name in WEIGHT_INPUT if name != "Gather"]
    top = set(model.graph)
    inner = [label(n) for n in nodes_of(model) if n not in top and is_standard(n, *operators)]
    if inner:
        notes.append(f"{len(inner)} in subgraphs or functions left in float: {quoted(inner)}")
    return notes
