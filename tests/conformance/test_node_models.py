"""Every node model of the ONNX backend suite goes through the simplifying passes unchanged.

Each comes in four forms: as it is; with its inputs as constants, so that all of it can be folded;
with all but its first input as constants, as weights are; and with default values for its inputs,
which must not be taken for constants. The original and the result run in the same engine on the
case's own inputs: ONNX Runtime where it runs the original, otherwise onnx's reference evaluator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conformance.node_models import (
    COUNT,
    ENGINES,
    ONNX_VERSION,
    NotRunnableError,
    Outputs,
    cases,
    inputs_of,
    run_ort,
    same,
    with_constants,
    with_defaults,
)
from models import serialized
from onnx.backend.test.case.test_case import TestCase

from graphopt.ir import load, save
from graphopt.pipeline.base import Pass, PassContext
from graphopt_passes.eliminate_dead import EliminateDead
from graphopt_passes.fold_constants import FoldConstants

PASSES: tuple[Pass, ...] = (FoldConstants(), EliminateDead())

CHUNKS = 40

# These draw random numbers: no two runs are alike, so the passes must leave all of them alone.
RANDOM = {
    "test_bernoulli",
    "test_bernoulli_double",
    "test_bernoulli_double_expanded",
    "test_bernoulli_expanded",
}

# How many cases have only tensors (from the second input on) as inputs, and at least one.
CONSTANT_COUNT = 1855
WEIGHT_COUNT = 1361
DEFAULT_COUNT = 1829


def chunk(index: int) -> list[TestCase]:
    return list(cases()[index::CHUNKS])


def test_the_suite_is_the_one_that_is_counted_here() -> None:
    assert onnx.__version__.startswith(f"{ONNX_VERSION}."), "another onnx ships other cases"
    assert len(cases()) == COUNT == 1884
    assert len({case.name for case in cases()}) == COUNT
    inputs = {case.name: inputs_of(case) for case in cases()}
    forms = Counter[str]()
    for case in cases():
        forms["constants"] += with_constants(case, inputs[case.name]) is not None
        forms["weights"] += with_constants(case, inputs[case.name], first=1) is not None
        forms["defaults"] += with_defaults(case, inputs[case.name]) is not None
    assert forms == {
        "constants": CONSTANT_COUNT,
        "weights": WEIGHT_COUNT,
        "defaults": DEFAULT_COUNT,
    }


@pytest.mark.parametrize("index", range(CHUNKS))
def test_as_they_are(index: int, tmp_path: Path) -> None:
    for case in chunk(index):
        verify(case, case.model, inputs_of(case), tmp_path)


@pytest.mark.parametrize("index", range(CHUNKS))
def test_with_constant_inputs(index: int, tmp_path: Path) -> None:
    folded = total = 0
    for case in chunk(index):
        proto = with_constants(case, inputs_of(case))
        if proto is not None:
            result = verify(case, proto, [], tmp_path)
            total += 1
            folded += all(node.op_type == "Constant" for node in result.graph.node)
    # The rest: random, control flow, quantization, strings, types that numpy does not have, and
    # with an older ONNX Runtime the newest opsets.
    assert folded >= 0.5 * total


@pytest.mark.parametrize("index", range(CHUNKS))
def test_with_constant_weights(index: int, tmp_path: Path) -> None:
    for case in chunk(index):
        proto = with_constants(case, inputs_of(case), first=1)
        if proto is not None:
            verify(case, proto, inputs_of(case)[:1], tmp_path)


@pytest.mark.parametrize("index", range(CHUNKS))
def test_with_defaults_that_are_overridden(index: int, tmp_path: Path) -> None:
    for case in chunk(index):
        proto = with_defaults(case, inputs_of(case))
        if proto is not None:
            verify(case, proto, inputs_of(case), tmp_path)


def verify(
    case: TestCase, proto: onnx.ModelProto, inputs: list[Any], folder: Path
) -> onnx.ModelProto:
    """Loads, simplifies and saves `proto`, and compares what it gives; returns the result."""
    model = load(proto.SerializeToString())
    rewrites = simplify(case, model)
    save(model, folder / "result.onnx")
    result = onnx.load_model(folder / "result.onnx")
    onnx.checker.check_model(result)
    assert [v.SerializeToString() for v in result.graph.input] == [
        v.SerializeToString() for v in proto.graph.input
    ], case.name
    assert [v.SerializeToString() for v in result.graph.output] == [
        v.SerializeToString() for v in proto.graph.output
    ], case.name
    if case.name in RANDOM:
        assert not rewrites, case.name
        return result
    engine, outputs = run(case, proto, inputs)
    actual = engine(result, inputs)
    # Not to the bit: what ONNX Runtime folded and the reference evaluator computes in its own way;
    # and float16, where ONNX Runtime keeps float32 from node to node, so that rounding moves.
    rounds_elsewhere = has_half(proto) if engine is run_ort else rewrites["fold"] > 0
    if rounds_elsewhere:
        # Two units in the last place of float16: one rounding more on either side.
        rtol = max(case.rtol, 2e-3) if has_half(proto) else case.rtol
        assert same(outputs, actual, rtol, case.atol), case.name
    else:
        assert same(outputs, actual), case.name
    return result


def simplify(case: TestCase, model: ir.Model) -> Counter[str]:
    """Applies each pass twice: it must tell whether it changed something, then change nothing."""
    rewrites = Counter[str]()
    for step in PASSES:
        before = serialized(model)
        result = step.run(model, PassContext())
        after = serialized(model)
        assert result.modified == bool(result.rewrites) == (after != before), (case.name, step)
        rewrites.update(result.rewrites)
        again = step.run(model, PassContext())
        assert not again.modified, (case.name, step, again.rewrites)
        assert serialized(model) == after, (case.name, step)
    return rewrites


def run(
    case: TestCase, proto: onnx.ModelProto, inputs: list[Any]
) -> tuple[Callable[[onnx.ModelProto, Sequence[Any]], Outputs], Outputs]:
    """The first engine that runs `proto`, and its outputs. There is one for every case."""
    reasons = []
    for engine in ENGINES:
        try:
            return engine, engine(proto, inputs)
        except NotRunnableError as error:
            reasons.append(str(error))
    pytest.fail(f"{case.name}: no engine runs it: {reasons}")


def has_half(proto: onnx.ModelProto) -> bool:
    """Whether there may be a float16 value in `proto`."""
    half = onnx.TensorProto.FLOAT16
    inferred = onnx.shape_inference.infer_shapes(proto)
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    return any(v.type.tensor_type.elem_type == half for v in values) or any(
        t.data_type == half for t in proto.graph.initializer
    )


def test_the_comparison_sees_a_difference() -> None:
    one = np.array([1.0, np.nan], np.float32)
    assert same(one, one.copy())
    assert not same(one, np.nextafter(one, np.float32(2)))
    assert not same(np.float32([0.0]), np.float32([-0.0]))
    assert not same(one, one.astype(np.float64))
    assert not same(one, one.reshape(2, 1))
    assert not same([one], [one, one])
    assert same(one, np.nextafter(one, np.float32(2)), rtol=1e-6)
    assert not same(one, one + 1, rtol=1e-3, atol=1e-3)
    assert not same(np.array(["a"], object), np.array(["b"], object))
