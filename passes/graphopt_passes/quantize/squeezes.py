"""Squeeze and excite with so few channels inside that the target computes it in float."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import is_standard
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate

NARROW = "squeezes what is pooled into so few channels that the target computes it in float"
POOLS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")


def narrow_squeezes(candidates: list[Candidate], rules: QuantizationRules) -> list[Candidate]:
    """Both Convs of each block pool -> Conv -> activation -> Conv (Hu et al. 2017) that is narrow.

    Narrow are at most `rules.narrow_squeeze` channels between the two.
    """
    known = {candidate.node: candidate for candidate in candidates}
    found = []
    for candidate in candidates:
        channels = _pointwise_outputs(candidate)
        if channels is None or channels > rules.narrow_squeeze or not _is_pooled(candidate.data):
            continue
        readers = list(_readers(candidate.node.outputs[0], rules))
        if len(readers) == 1 and readers[0] in known:
            other = known[readers[0]]
            if _pointwise_outputs(other) is not None:
                found += [candidate, other]
    return found


def _pointwise_outputs(candidate: Candidate) -> int | None:
    """The output channels of a Conv of one tap; None for other nodes."""
    shape = candidate.tensor.shape.numpy()
    if candidate.node.op_type != "Conv" or any(size != 1 for size in shape[2:]):
        return None
    return int(shape[0])


def _is_pooled(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and is_standard(producer, *POOLS)


def _readers(value: ir.Value, rules: QuantizationRules) -> Iterator[ir.Node]:
    """The nodes that read `value`, those behind activations in place of these; each once."""
    pending, seen = [value], {value}
    met: set[ir.Node] = set()
    while pending:
        for node, _ in pending.pop().uses():
            if node in met:
                continue
            met.add(node)
            if not is_standard(node, *rules.epilogues):
                yield node
                continue
            fresh = [output for output in node.outputs if output not in seen]
            seen.update(fresh)
            pending.extend(fresh)
