"""What a generated model is held to, beyond the checks of tools/conformance_check.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from conformance_check import Original, Outcome, verify
from conformance_engines import (
    HALF_ROUNDING,
    NotRunnableError,
    all_nodes,
    difference,
    has_half,
    run_ort,
    run_reference,
)
from fuzz_models import Feed, grow, larger

from graphopt.pipeline.text import parse

LOSSLESS, SIMPLIFY = parse("lossless"), parse("repeat(simplify)")

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""ONNX Runtime computes them in another way once a weight is constant."""
PRODUCT_ROUNDING = 1e-5
HALF_FUSED = 1e-2
TRIALS = 6
ROUNDING = {"f2": 2e-3, "f4": 3e-7, "f8": 1e-15}


def failures(seed: int) -> list[str] | None:
    """What goes wrong with the model of `seed`; None if ONNX Runtime does not run it.

    Through `lossless` on ordinary numbers, and through `simplify` on zeros of both signs, NaN,
    infinities and numbers near the ends of the type as well, where every bit counts.
    """
    model, ordinary, special = grow(seed)
    onnx.checker.check_model(model)
    more = larger(model)
    original = Original(model, [*ordinary, *([] if more is None else [more])])
    if original.engine is not run_ort:
        original = Original(model, ordinary)
    if original.engine is not run_ort:
        return None
    found = [("lossless", verify(original, LOSSLESS), original)]
    feeds = [*ordinary[:1], *([] if _has(model, *PRODUCTS) else special)]
    again = Original(model, feeds)
    if again.engine is run_ort:
        found.append(("simplify", verify(again, SIMPLIFY), again))
    return [
        f"seed {seed}, {name}: {outcome.status}: {outcome.detail}"
        for name, outcome, base in found
        if outcome.bad and not (outcome.status == "wrong" and _is_excused(outcome, base))
    ]


def _has(model: onnx.ModelProto, *op_types: str) -> bool:
    return any(node.op_type in op_types for node in all_nodes(model))


def _is_excused(outcome: Outcome, original: Original) -> bool:
    """Whether other numbers are no fault of the rewrites."""
    assert outcome.result is not None
    proto = original.proto
    result = onnx.load_model_from_string(outcome.result)
    actual = run_ort(result, original.feeds)
    names = [value.name for value in proto.graph.output]
    keeps_zeros = not _has(proto, "Where")  # ONNX Runtime's makes 0 of some -0
    if _same_numbers(original.outputs, actual, keeps_zeros):
        return True
    if has_half(proto) and _agrees_in_reference(names, proto, result, original.feeds):
        return True
    if "(limit 0)" in outcome.detail:
        if not _has(proto, *PRODUCTS):
            return False
        if difference(names, original.outputs, actual, PRODUCT_ROUNDING) is None:
            return True
    return _is_sensitive(original, names)


def _same_numbers(expected: Any, actual: Any, keeps_zeros: bool) -> bool:
    """Whether all is the same but for the bits of NaN, and those of zeros if need be."""
    for one, other in zip(chain(*expected), chain(*actual), strict=True):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            return False
        if keeps_zeros and one.dtype.kind == "f":
            signs = (np.signbit(one) == np.signbit(other)) | np.isnan(one)
            if not signs.all():
                return False
    return True


def _agrees_in_reference(
    names: Sequence[str], proto: onnx.ModelProto, result: onnx.ModelProto, feeds: Sequence[Feed]
) -> bool:
    """Whether both give the same where every node rounds to float16; ONNX Runtime's CPU keeps
    float32 from node to node, so that what overflows depends on the nodes around."""
    try:
        expected, actual = (run_reference(each, feeds) for each in (proto, result))
    except NotRunnableError:
        return False
    return difference(names, expected, actual, HALF_FUSED) is None


def _is_sensitive(original: Original, names: Sequence[str]) -> bool:
    """Whether the original's own outputs move as far when its numbers move by one rounding."""
    limit = HALF_ROUNDING if has_half(original.proto) else None
    for trial in range(TRIALS):
        generator = np.random.default_rng(trial)
        proto = onnx.ModelProto()
        proto.CopyFrom(original.proto)
        for tensor in proto.graph.initializer:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(_moved(array, generator), tensor.name))
        feeds: list[Feed] = [
            {name: _moved(array, generator) for name, array in feed.items()}
            for feed in original.feeds
        ]
        if difference(names, original.outputs, run_ort(proto, feeds), limit) is not None:
            return True
    return False


def _moved(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    share = ROUNDING.get(array.dtype.str[1:])
    if share is None:
        return array
    with np.errstate(over="ignore"):
        return np.asarray(array * (1 + share * generator.uniform(-1, 1, array.shape)), array.dtype)
