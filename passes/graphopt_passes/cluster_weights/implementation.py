"""What `cluster-weights` does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import Names, default_opset, label, named_nodes
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.quantization import sqnr_db
from graphopt_passes.cluster_weights.kmeans import centres, nearest
from graphopt_passes.cluster_weights.survey import Weight, survey
from graphopt_passes.cluster_weights.writing import write
from graphopt_passes.quantize_weights.left import Left, notes_on, rows_on
from graphopt_passes.set_opset.conversion import set_opset

if TYPE_CHECKING:
    from graphopt_passes.cluster_weights import ClusterWeights

Array = np.ndarray[Any, Any]
WHERE = "pass 'cluster-weights'"
UINT4_OPSET = 21
"""The first opset whose Cast takes uint4."""
BYTE = np.dtype(np.uint8)
NIBBLE = np.dtype(ml_dtypes.uint4)


def run(options: ClusterWeights, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `ClusterWeights`."""
    weights, left = _survey(options, model)
    if not weights:
        return PassResult(model, False, notes=_notes(left), details=_details([], left))
    old = default_opset(model)
    model, dtype, notes = _index_type(options, model, context)
    if default_opset(model) != old:
        weights, left = _survey(options, model)
    names = Names(model)
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for weight in context.progress.track(weights, "clustering weights", total=len(weights)):
        array = weight.tensor.numpy()
        if not np.isfinite(array).all():
            left.append(Left(weight.node, "its weight holds NaN or an infinite value"))
            continue
        codebook, indices = clustered(array, weight, options.bits, keep_zeros=options.keep_zeros)
        rows.append(_row(weight, array, codebook, indices, dtype))
        counts[weight.node.op_type.lower()] += 1
        write(model, names, weight, codebook, indices.astype(dtype))
    modified = bool(rows) or default_opset(model) != old
    notes += _notes(left)
    return PassResult(model, modified, counts, notes, _details(rows, left))


def _survey(options: ClusterWeights, model: ir.Model) -> tuple[list[Weight], list[Left]]:
    return survey(model, options, named_nodes(model, options.exclude, where=WHERE))


def _index_type(
    options: ClusterWeights, model: ir.Model, context: PassContext
) -> tuple[ir.Model, np.dtype[Any], tuple[str, ...]]:
    """The type of the indices, the model in an opset that has it, and what there is to say."""
    notes: tuple[str, ...] = ()
    if context.target.family == "tensorrt":
        notes = ("TensorRT holds indices in 32 bits: the file shrinks, the engine does not",)
    if options.bits > 4 or "uint4" not in context.target.weight_formats:
        return model, BYTE, notes
    old = default_opset(model)
    if old >= UINT4_OPSET:
        return model, NIBBLE, notes
    raised = model.clone()
    try:
        set_opset(raised, context, UINT4_OPSET)
    except GraphoptError as error:
        return model, BYTE, (*notes, f"the indices take 8 bits each, not 4: {error}")
    return raised, NIBBLE, (*notes, f"raised the opset from {old} to {UINT4_OPSET}, for uint4")


def clustered(
    array: Array, weight: Weight, bits: int, *, keep_zeros: bool = False
) -> tuple[Array, Array]:
    """The codebooks ([codebooks, 2^bits], in the dtype of `array`), and the index of each number.

    The indices are those of the nearest values as they are stored: uint8, of the shape of `array`.
    """
    matrix = array.reshape(weight.matrix)
    rows = matrix.T if weight.by_column else matrix
    if weight.shared:
        rows = matrix.reshape(1, -1)
    rows = rows.astype(np.float32, copy=False)
    codebook = centres(rows, 1 << bits, zero=keep_zeros).astype(array.dtype)
    indices = np.empty(rows.shape, np.uint8)
    for row, values in enumerate(rows):
        indices[row] = nearest(values, codebook[row])
    if weight.by_column and not weight.shared:
        indices = indices.T
    return codebook, indices.reshape(array.shape)


def _row(
    weight: Weight, array: Array, codebook: Array, indices: Array, dtype: np.dtype[Any]
) -> dict[str, Any]:
    index_bits = 4 if dtype == NIBBLE else 8
    decibels = sqnr_db(array, _restored(weight, codebook, indices))
    return {
        "weight": str(weight.value.name),
        "node": label(weight.node),
        "codebooks": len(codebook),
        "sqnr_db": round(decibels, 2) if np.isfinite(decibels) else None,
        "bytes_before": weight.tensor.nbytes,
        "bytes_after": codebook.nbytes + -(-indices.size * index_bits // 8),
    }


def _restored(weight: Weight, codebook: Array, indices: Array) -> Array:
    """The weight as the model will compute it."""
    if weight.shared:
        return np.asarray(codebook[0][indices])
    table = codebook.T if weight.by_column else codebook
    axis = 0 if weight.by_column else 1
    flat = np.take_along_axis(table, indices.reshape(weight.matrix).astype(np.intp), axis)
    return np.asarray(flat.reshape(indices.shape))


def _details(rows: list[dict[str, Any]], left: list[Left]) -> dict[str, Any]:
    return {"weights": rows, "left": rows_on(left)}


def _notes(left: list[Left]) -> tuple[str, ...]:
    return tuple(notes_on(left, "left as it is"))
