"""What every pass owes, held against every pass that is installed, on every fixture."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import serialized

import graphopt
from graphopt import Effect, Need, PassContext
from graphopt.data.feeds import batches, input_specs
from graphopt.data.samples import open_samples
from graphopt.pipeline.registry import pass_names
from graphopt.pipeline.runner import run
from graphopt.runtime.difference import compare
from graphopt.runtime.tap import run_all

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODELS = ("resnet", "mobilenet", "vit")
CALIBRATION = str(FIXTURES / "calib.npz")
OPTIONS = {
    "cluster-weights": "{bits=5}",  # up to 4 bits need opset 21
    "graphsurgeon": "{function=test_contract:tidy}",
    "prune-blocks": "{samples=64}",
    "prune-channels": "{ratio=0.3,samples=64}",
    "quantize": "{samples=64}",
    "quantize-weights": "{format=int8}",  # int4 needs opset 21
    "set-opset": "{version=21}",
}


def tidy(graph: object) -> None:
    """A GraphSurgeon function that leaves a clean graph as it is."""
    graph.cleanup()  # type: ignore[attr-defined]


@cache
def fixture(name: str) -> ir.Model:
    return graphopt.load(FIXTURES / f"{name}.onnx")


@cache
def prepared(name: str) -> ir.Model:
    """What a lossy pass usually gets: a simplified and fused model."""
    return graphopt.optimize(fixture(name), "lossless", verify="off").model


def context(model: ir.Model, step: graphopt.Pass) -> PassContext:
    if not {Need.CALIBRATION, Need.RANGES} & set(step.required()):
        return PassContext()
    return PassContext(calibration=open_samples(CALIBRATION, input_specs(model)))


CASES = [(p, m, raw) for p in pass_names() for m in MODELS for raw in (True, False)]


@pytest.mark.parametrize(("name", "model", "raw"), CASES)
def test_a_pass_keeps_its_contract(name: str, model: str, raw: bool) -> None:
    source = fixture(model) if raw else prepared(model)
    pipeline = graphopt.parse(name + OPTIONS.get(name, ""))
    (step,) = pipeline.steps
    before = serialized(source)
    first = run(pipeline, source, context(source, step))
    assert serialized(source) == before, "the input was touched"
    after = serialized(first.model)
    if name != "graphsurgeon":  # an export and import always writes the graph anew
        assert first.modified == (after != before), "`modified` is not true"
    assert serialized(run(pipeline, source, context(source, step)).model) == after
    assert_same_interface(source, first.model, opset=name != "set-opset")
    onnx.checker.check_model(ir.to_proto(first.model), full_check=True)
    if step.effect is Effect.EXACT:
        assert_same_numbers(source, first.model)
        again = run(pipeline, first.model, context(first.model, step))
        assert not again.modified
        assert serialized(again.model) == after, "a second run changed something"
    else:
        assert_same_kind_of_answer(source, first.model)


def assert_same_interface(one: ir.Model, other: ir.Model, *, opset: bool) -> None:
    for mine, theirs in (
        (one.graph.inputs, other.graph.inputs),
        (one.graph.outputs, other.graph.outputs),
    ):
        assert [(v.name, v.dtype, v.shape) for v in mine] == [
            (v.name, v.dtype, v.shape) for v in theirs
        ]
    assert not opset or dict(one.opset_imports) == dict(other.opset_imports)


def feeds(model: ir.Model, count: int, size: int) -> list[dict]:
    specs = input_specs(model)
    return [f for f, _ in batches(open_samples(CALIBRATION, specs), specs, size, count)]


def assert_same_numbers(one: ir.Model, other: ir.Model) -> None:
    """Within 1e-5 of the peak: what the verifier itself demands of float32, at two batch sizes."""
    for size in (1, 7):
        data = feeds(one, 14, size)
        for difference in compare(run_all(one, data), run_all(other, data)):
            assert difference.max_rel <= 1e-5


def assert_same_kind_of_answer(one: ir.Model, other: ir.Model) -> None:
    """A lossy pass may move numbers, but most samples keep their class."""
    data = feeds(one, 128, 32)
    classes = [
        np.concatenate([out["logits"].argmax(1) for out in run_all(m, data)]) for m in (one, other)
    ]
    assert (classes[0] == classes[1]).mean() > 0.75


PIPELINE = "simplify,fuse,prune-channels{ratio=0.3,samples=128},quantize{samples=128}"


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        output = tmp_path / f"{number}.onnx"
        arguments = ["optimize", str(FIXTURES / "resnet.onnx"), "-o", str(output)]
        arguments += ["--passes", PIPELINE, "--calib", CALIBRATION, "--no-latency"]
        command = [str(Path(sys.executable).with_name("graphopt")), *arguments]
        subprocess.run(command, check=True, capture_output=True)
        digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
    assert len(digests) == 1
