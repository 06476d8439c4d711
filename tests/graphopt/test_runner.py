"""The runner, its instruments, and GraphSurgeon functions as passes."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from models import MLP, model, proto, serialized

import graphopt
from graphopt import Effect, GraphSurgeonPass, Pass, PassContext, PassResult, Stage
from graphopt.pipeline.instruments import Dump, Timing
from graphopt.pipeline.runner import run
from graphopt.pipeline.text import Pipeline, Repeat
from graphopt.pipeline.verify import Verify

X = {"x": np.array([[1.0, -2.0, 3.0, 0.5]], np.float32)}


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies the last weight: harmless at 1, a bug in an exact pass at anything else."""

    name: ClassVar[str] = "scale"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT

    by: float = 1.0

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        weight = model.graph.initializers["v"]
        scaled = weight.const_value.numpy() * np.float32(self.by)
        weight.const_value = ir.tensor(scaled, name="v")
        return PassResult(model, modified=True, rewrites={"scaled": 1})


@dataclass(frozen=True)
class LossyScale(Scale):
    """The same, as a pass that may."""

    name: ClassVar[str] = "lossy-scale"
    stage: ClassVar[Stage] = Stage.COMPRESS
    effect: ClassVar[Effect] = Effect.LOSSY


@dataclass(frozen=True)
class Countdown(Pass):
    """Changes the model as often as its metadata says."""

    name: ClassVar[str] = "countdown"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        left = int(model.metadata_props["left"])
        model.metadata_props["left"] = str(max(left - 1, 0))
        return PassResult(model, modified=left > 0)


@dataclass(frozen=True)
class Vandal(Pass):
    """Leaves an invalid model behind."""

    name: ClassVar[str] = "vandal"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        model.graph[1].op_type = "NoSuchOperator"
        return PassResult(model, modified=True)


def go(*steps: Pass | Repeat, of: ir.Model | None = None, instruments: tuple = ()) -> ir.Model:
    return run(Pipeline(steps), of or model(), PassContext(), instruments).model


def test_the_input_is_never_changed() -> None:
    original = model()
    before = serialized(original)
    result = go(LossyScale(by=2.0), of=original)
    assert serialized(original) == before
    assert serialized(result) != before


def test_an_invalid_result_names_the_pass() -> None:
    with pytest.raises(graphopt.GraphoptError, match=r"the result of pass 'vandal'.*NoSuchOp"):
        go(Vandal())


@pytest.mark.parametrize("own", [True, False])
def test_the_pass_that_broke_the_model_is_named_among_others(own: bool) -> None:
    steps = Pipeline((Scale(), Vandal(), Scale(by=2.0)))
    with pytest.raises(graphopt.GraphoptError, match=r"the result of pass 'vandal'.*NoSuchOp"):
        run(steps, model(), PassContext(), reload=model if own else None)


def test_a_model_that_can_be_loaded_again_is_not_copied() -> None:
    original = model()
    assert run(Pipeline((Scale(),)), original, PassContext(), reload=model).model is original


def test_an_exact_pass_is_not_run_again_on_a_model_that_it_has_left_alone() -> None:
    body = Pipeline((graphopt.parse("eliminate-dead").steps[0], Countdown()))
    m = model()
    m.metadata_props["left"] = "2"
    steps = run(Pipeline((Repeat(body), body.steps[0])), m, PassContext()).steps  # type: ignore[arg-type]
    assert [record.step.name for record in steps] == [*["eliminate-dead", "countdown"] * 3]


def test_repeat_stops_when_nothing_changes_and_at_its_maximum() -> None:
    m = model()
    m.metadata_props["left"] = "3"
    body = Pipeline((Countdown(),))
    records = run(Pipeline((Repeat(body),)), m, PassContext()).steps
    assert [record.modified for record in records] == [True, True, True, False]
    m.metadata_props["left"] = "30"
    assert len(run(Pipeline((Repeat(body),)), m, PassContext()).steps) == 10


@pytest.mark.parametrize("mode", ["each", "final"])
def test_an_exact_pass_that_changes_numbers_is_caught_by_name(mode: str) -> None:
    original = model()
    before = serialized(original)
    with pytest.raises(graphopt.ToleranceError, match=r"pass(es)? .*scale.*output 'y'") as caught:
        go(Scale(), Scale(by=1.001), of=original, instruments=(Verify([X], mode),))
    assert caught.value.exit_code == 1
    assert serialized(original) == before


def test_a_tolerance_in_words_of_the_user() -> None:
    verify = Verify([X], "final", tolerance=0.01)
    go(Scale(by=1.001), instruments=(verify,))
    assert verify.total[0].max_rel == pytest.approx(0.001, rel=1e-3)


SHIFTED = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[1, 4] x) => (float[4] y)
<float v = {-10.0}, int64[1] n = {-1}> { h = Add (x, v) s = Sigmoid (h) y = Reshape (s, n) }
"""


def test_a_sigmoid_near_zero_is_held_to_the_rounding_of_one() -> None:
    verify = Verify([X], "final")  # outputs of up to 1e-3, changed by 1.5e-7
    go(Scale(by=1 + 1.5e-5), of=model(SHIFTED), instruments=(verify,))
    (difference,) = verify.total
    assert 1e-5 < difference.max_rel < 1e-3
    assert 0 < difference.max_abs < 4 * 2.0**-23
    with pytest.raises(graphopt.ToleranceError, match="changed output 'y'"):
        go(Scale(by=1.001), of=model(SHIFTED), instruments=(Verify([X], "final"),))
    with pytest.raises(graphopt.ToleranceError, match="changed output 'y'"):
        go(Scale(by=1 + 1.5e-5), of=model(SHIFTED), instruments=(Verify([X], tolerance=1e-5),))
    other = model(SHIFTED.replace("Sigmoid", "Exp"))
    with pytest.raises(graphopt.ToleranceError, match="changed output 'y'"):
        go(Scale(by=1 + 1.5e-5), of=other, instruments=(Verify([X], "final"),))


@pytest.mark.parametrize(("shift", "warned"), [(-200.0, True), (-20.0, True), (-10.0, False)])
def test_outputs_that_are_one_number_prove_little(shift: float, warned: bool) -> None:
    report = graphopt.optimize(model(SHIFTED.replace("-10.0", str(shift))), "lossless").report
    assert any("same number on the first 8" in w for w in report.warnings) is warned


def test_a_lossy_pass_is_measured_and_exact_ones_around_it_are_still_held() -> None:
    verify = Verify([X], "final")
    go(Scale(), LossyScale(by=1.1), instruments=(verify,))
    assert [(check.passes, check.effect) for check in verify.checks] == [
        (("scale",), Effect.EXACT),
        (("lossy-scale",), Effect.LOSSY),
    ]
    assert verify.total[0].max_rel == pytest.approx(0.1, rel=1e-4)
    assert verify.total[0].sqnr_db == pytest.approx(20.0, abs=0.01)
    pipeline = Pipeline((LossyScale(by=1.1), Scale(by=1.001)))
    with pytest.raises(graphopt.ToleranceError, match="pass scale"):
        run(pipeline, model(), PassContext(), (Verify([X], "final"),), any_order=True)


def test_a_model_that_does_not_run_is_said_to_be_unverified() -> None:
    random = model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[2, 4] x) => (float[2, 4] y) '
        "{ y = RandomNormalLike (x) }"
    )
    verify = Verify([{"x": np.zeros((2, 4), np.float32)}], "final")
    random.metadata_props["left"] = "1"
    go(Countdown(), of=random, instruments=(verify,))
    assert verify.skipped == "the original gives other outputs each time it runs"
    custom = model(MLP.replace('"" : 17', '"" : 17, "my" : 1').replace("Relu (h)", "my.Odd (h)"))
    verify = Verify([X], "final")
    go(Scale(by=1.5), of=custom, instruments=(verify,))
    assert verify.total == ()
    assert "Odd" in (verify.skipped or "")


def test_timing_and_dumps(tmp_path: Path) -> None:
    timing, m = Timing(), model()
    m.metadata_props["left"] = "1"
    go(Countdown(), Countdown(), Scale(), of=m, instruments=(timing, Dump(tmp_path)))
    assert len(timing.seconds) == 3
    assert all(seconds > 0 for seconds in timing.seconds)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["01-countdown.onnx", "03-scale.onnx"]
    onnx.checker.check_model(str(tmp_path / "03-scale.onnx"))


def swap_relu(graph: gs.Graph) -> None:
    """A GraphSurgeon function as users have them: changes the graph in place."""
    for node in graph.nodes:
        if node.op == "Relu":
            node.op = "Abs"


def empty(graph: gs.Graph) -> str:
    return "not a graph"


def test_a_graphsurgeon_function_is_a_pass() -> None:
    step = GraphSurgeonPass(swap_relu)
    assert str(step) == "graphsurgeon{function=" + f"{__name__}:swap_relu" + "}"
    assert step == GraphSurgeonPass(f"{__name__}:swap_relu")
    result = go(step)
    assert [node.op_type for node in result.graph] == ["Gemm", "Abs", "MatMul"]
    hidden = X["x"] @ np.arange(1, 13, dtype=np.float32).reshape(4, 3) + [0.5, -0.5, 0.25]
    expected = np.abs(hidden) @ np.array([[1, -1], [2, -2], [3, -3]])
    got = graphopt.optimize(model(), Pipeline((step,)), verify="off").model
    from graphopt.runtime.session import Session

    np.testing.assert_allclose(Session(got).run(X)["y"], expected, rtol=1e-5)
    with pytest.raises(graphopt.GraphoptError, match="returned str, not a graph"):
        go(GraphSurgeonPass(empty))


def test_graphsurgeon_and_back_keeps_the_model() -> None:
    graph = graphopt.to_graphsurgeon(model())
    assert isinstance(graph, gs.Graph)
    again = graphopt.load(graph)
    assert [v.name for v in again.graph.inputs] == ["x"]
    assert [v.name for v in again.graph.outputs] == ["y"]
    assert set(again.graph.initializers) == {"w", "b", "v"}


def test_graphsurgeon_is_not_given_what_it_loses() -> None:
    m = model(
        '<ir_version: 9, opset_import: ["" : 17]> g (seq(float[2]) x) => (float[n] y) '
        "{ y = ConcatFromSequence <axis = 0> (x) }"
    )
    with pytest.raises(graphopt.GraphoptError, match="cannot hold the type"):
        graphopt.to_graphsurgeon(m)


def test_the_record_and_that_nothing_done_leaves_an_earlier_one() -> None:
    first = graphopt.optimize(proto(MLP), Pipeline((Scale(),)), verify="off").model
    assert first.metadata_props["graphopt.pipeline"] == "scale"
    assert len(first.metadata_props["graphopt.source_sha256"]) == 64
    assert "onnxruntime=" in first.metadata_props["graphopt.versions"]
    first.metadata_props["left"] = "0"
    second = graphopt.optimize(first, Pipeline((Countdown(),)), verify="off").model
    assert serialized(second) == serialized(first)


SEQUENCE = """
    <ir_version: 9, opset_import: ["" : 17]>
    g (seq(float[2]) x) => (float[n] y) { i = ConcatFromSequence <axis = 0> (x) y = Identity (i) }
"""


def test_a_model_that_cannot_be_fed_is_still_optimized() -> None:
    result = graphopt.optimize(model(SEQUENCE), "lossless", latency=True)
    assert [node.op_type for node in result.model.graph] == ["ConcatFromSequence"]
    assert "there is nothing to feed" in (result.report.verification.skipped or "")
    assert any("NOT verified" in warning for warning in result.report.warnings)


def test_latency_that_cannot_be_measured_is_a_warning() -> None:
    custom = model(MLP.replace('"" : 17', '"" : 17, "my" : 1').replace("Relu (h)", "my.Odd (h)"))
    report = graphopt.optimize(custom, "lossless", latency=True).report
    assert report.before.latency_ms is None
    assert any(warning.startswith("latency was not measured") for warning in report.warnings)


def test_inputs_without_a_common_batch_axis_are_fed_whole() -> None:
    m = model("""
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[1, 3] x, float[2] s, float[0, 3] empty) => (float[1, 3] y, float[1, 3] e) {
            i = Identity (x)
            t = ReduceSum <keepdims = 1> (s)
            y = Mul (i, t)
            axes = Constant <value = int64[1] {0}> ()
            e = ReduceSum (empty, axes)
        }
    """)
    report = graphopt.optimize(m, "lossless", latency=True).report
    assert report.verification.skipped is None
    assert [difference.exact for difference in report.verification.total] == [True, True]
    assert report.before.latency_ms is not None


def test_weights_that_are_inputs_are_left_alone_and_said_to_be() -> None:
    old = model(
        MLP.replace("ir_version: 9", "ir_version: 3")
        .replace("17", "8")
        .replace(
            "(float[batch, 4] x)", "(float[batch, 4] x, float[4, 3] w, float[3] b, float[3, 2] v)"
        )
    )
    report = graphopt.optimize(old, "lossless").report
    assert any("3 weights are inputs as well" in warning for warning in report.warnings)
    assert report.verification.total[0].exact
    swapped = graphopt.optimize(old, Pipeline((GraphSurgeonPass(swap_relu),))).model
    assert [node.op_type for node in swapped.graph] == ["Gemm", "Abs", "MatMul"]


def test_a_score_that_falls_by_just_what_is_allowed() -> None:
    from graphopt.report.model import Score

    for hits in range(100, 1000):
        before, after = hits / 1000 * 100, (hits - 10) / 1000 * 100
        assert Score("data", "top1", before, after, max_drop=1.0).met
        assert not Score("data", "top1", before, after - 0.1, max_drop=1.0).met


def test_the_garbage_collector_is_left_as_it_was() -> None:
    assert gc.get_freeze_count() == 0
    graphopt.optimize(model(MLP), "eliminate-dead", verify="off")
    assert gc.get_freeze_count() == 0
    gc.freeze()
    try:
        graphopt.optimize(model(MLP), "eliminate-dead", verify="off")
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
