"""prune-channels: the least-squares compensation, and what it is worth on the fixtures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import Net, random_feed

import graphopt
from graphopt import PassContext, PassResult
from graphopt.data.arrays import ArraySamples
from graphopt.data.evaluation import open_evaluation
from graphopt.data.feeds import batches, input_specs
from graphopt.data.samples import open_samples
from graphopt.ir import constant_array
from graphopt.progress import Quiet
from graphopt.reconstruction import (
    Geometry,
    Moments,
    Stream,
    conv_matrix,
    conv_rows,
    conv_weight,
)
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels, compensate

SHAPES = list(
    itertools.product(
        [(1, 4, 6), (2, 4, 6), (4, 4, 8)],  # groups, channels, outputs
        [(3, 3), (2, 3), (1, 1)],  # kernel
        [{}, {"strides": [2, 1]}, {"dilations": [2, 1], "pads": [2, 0, 1, 3]}],
    )
)


@pytest.mark.parametrize(("channels", "kernel", "attributes"), SHAPES)
def test_rows_times_matrix_is_the_convolution(
    channels: tuple[int, int, int], kernel: tuple[int, int], attributes: dict[str, Any]
) -> None:
    check_rows(channels, kernel, attributes)


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1)])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_rows_follow_auto_pad(pad: str, kernel: tuple[int, int], strides: list[int]) -> None:
    check_rows((1, 2, 3), kernel, {"auto_pad": pad, "strides": strides})


@pytest.mark.parametrize("space", [(9,), (5, 4, 6)])
def test_rows_over_one_and_three_axes(space: tuple[int, ...]) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x, kernel = net.input(2, 4, *space), tuple(3 for _ in space)
    weight = net.weight(6, 2, *kernel)
    y = net.node("Conv", x, weight, group=2, pads=[1, 0] * len(space), name="conv")
    model = net.build(y)
    feed = random_feed(model, 2)
    (y,) = Session(model).run(feed).values()
    geometry = Geometry.of(model.graph.node("conv"), kernel, space, y.shape[2:])
    read, given = conv_rows(feed["x"], y, geometry, 2, np.arange(y[:, 0].size))
    matrix = conv_matrix(constant(model.graph.node("conv"), 1), 2)
    assert np.allclose(read @ matrix, given, rtol=0, atol=1e-5)


def check_rows(
    channels: tuple[int, int, int], kernel: tuple[int, int], attributes: dict[str, Any]
) -> None:
    """X W at some positions against the output of ONNX Runtime there."""
    groups, inputs, outputs = channels
    net = Net(kind=TensorProto.FLOAT)
    x = net.input(2, inputs, 9, 8)
    weight = net.weight(outputs, inputs // groups, *kernel)
    model = net.build(net.node("Conv", x, weight, group=groups, name="conv", **attributes))
    feed = random_feed(model, 2)
    (y,) = Session(model).run(feed).values()
    rows = np.sort(np.random.default_rng(0).choice(y[:, 0].size, 11, replace=False))
    geometry = Geometry.of(model.graph.node("conv"), kernel, (9, 8), y.shape[2:])
    read, given = conv_rows(feed["x"], y, geometry, groups, rows)
    array = model.graph.initializers[weight].const_value
    assert array is not None
    matrix = conv_matrix(array.numpy(), groups)
    assert np.allclose(read @ matrix, given, rtol=0, atol=1e-5)
    assert np.array_equal(conv_weight(matrix, array.numpy().shape), array.numpy())
    plain = np.moveaxis(y, 1, -1).reshape(-1, outputs)[rows]
    assert np.array_equal(np.moveaxis(given, 0, 1).reshape(len(rows), -1), plain)


def test_solve_finds_what_made_the_data_and_the_error_is_the_error() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4000, 5)) + 3
    true, bias = random.standard_normal((2, 5, 3)), random.standard_normal((2, 1, 3))
    y = x @ true + bias
    sums = Moments(2, 5, 3)
    for part in np.array_split(np.arange(4000), 7):
        sums.add(x[:, part], y[:, part])
    guess = true + 0.1 * random.standard_normal(true.shape)
    found = sums.solve(guess, centred=True)
    assert np.abs(found - true).max() < 0.01 * np.abs(guess - true).max() + 1e-2
    assert np.abs(found - true).max() < 0.05 * np.abs(guess - true).max()
    assert np.allclose(sums.bias(true), bias[:, 0], atol=1e-9)
    wrong = np.zeros((2, 3))
    direct = np.square(y - x @ guess - wrong[:, None]).sum()
    assert sums.error(guess, wrong) == pytest.approx(direct, rel=1e-9)


def test_solve_minimizes_the_stated_sum() -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((1, 50, 4)), random.standard_normal((1, 50, 2))
    present = random.standard_normal((1, 4, 2))
    sums = Moments(1, 4, 2)
    sums.add(x, y)
    ridge = 1e-2 * np.square(x).sum(axis=1).mean()

    def cost(w: np.ndarray) -> float:
        return float(np.square(y - x @ w).sum() + ridge * np.square(w - present).sum())

    found = sums.solve(present, centred=False)
    for _ in range(20):
        assert cost(found) < cost(found + 1e-3 * random.standard_normal(found.shape))


def test_an_input_that_never_changes_keeps_its_weight() -> None:
    sums = Moments(1, 2, 1)
    sums.add(np.ones((1, 9, 2)), np.ones((1, 9, 1)))
    present = np.array([[[2.0], [3.0]]])
    assert np.allclose(sums.solve(present, centred=True), present)


def correlated(model: ir.Model, count: int = 128, seed: int = 0) -> PassContext:
    """Samples whose channels depend on one another, as those of real data do.

    Another seed gives other samples of the same kind.
    """
    (spec,) = input_specs(model)
    random = np.random.default_rng(seed)
    shape = (count, *(dim or 1 for dim in spec.shape[1:]))
    maps = np.random.default_rng(99).standard_normal((2, int(np.prod(shape[1:]))))
    array = np.tanh(random.standard_normal((count, 2)) @ maps)
    array += 0.1 * random.standard_normal(array.shape)
    feed = {spec.name: array.reshape(shape).astype(np.float32)}
    return PassContext(calibration=ArraySamples("correlated", feed, (spec,)))


def conv_net() -> ir.Model:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.conv(net.input("batch", 3, 6, 6), (3, 16), name="first"))
    x = net.norm(net.node("Conv", x, net.weight(16, 16, 3, 3), name="plain"), 16)
    x = net.node("Relu", net.conv(net.node("Relu", x), (16, 16), group=4, name="grouped"))
    x = net.node("Relu", net.conv(x, (16, 16), group=16, name="depthwise"))
    return net.build(net.head(x, 16))


def matrix_net() -> ir.Model:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Tanh", net.linear(net.input("batch", 8), 8, 24, name="first"))
    x = net.node("MatMul", x, net.weight(24, 20), name="bare")
    x = net.node("Tanh", x)
    wide = net.node("Gemm", x, net.weight(20, 18), alpha=0.5, name="no bias")
    x = net.node("Tanh", wide)
    x = net.node("Gemm", x, net.weight(14, 18), net.weight(1, 14), transB=1, beta=2.0, name="both")
    return net.build(net.linear(net.node("Tanh", x), 14, 3, name="last"))


def output_error(model: ir.Model, result: PassResult, context: PassContext) -> float:
    """The relative difference of the outputs on other samples."""
    assert context.calibration is not None
    feed = {"x": np.concatenate([sample["x"] for sample in context.calibration])}
    (a,), (b,) = (Session(m).run(feed).values() for m in (model, result.model))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("build", [conv_net, matrix_net])
def test_compensation_restores_the_outputs(build: Any) -> None:
    model = build()
    context, other = correlated(model), correlated(model, seed=1)
    plain = PruneChannels(ratio=0.3, compensate="none", align=1).run(model, context)
    refitted = PruneChannels(ratio=0.3, align=1).run(model, context)
    before, after = (output_error(model, result, other) for result in (plain, refitted))
    assert after < 0.5 * before
    for row in refitted.details["refits"]:
        assert row["error_after"] < row["error_before"]


def test_every_layer_behind_the_first_cut_is_refitted() -> None:
    rows = (
        PruneChannels(ratio=0.3, align=1)
        .run(matrix_net(), correlated(matrix_net()))
        .details["refits"]
    )
    assert [row["layer"] for row in rows] == ["bare", "no bias", "both", "last"]


def test_a_missing_bias_is_added_only_where_the_operator_has_one() -> None:
    model = matrix_net()
    result = PruneChannels(ratio=0.3, align=1).run(model, correlated(model))
    assert len(result.model.graph.node("no bias").inputs) == 3
    assert len(result.model.graph.node("bare").inputs) == 2


def test_shared_weights_are_not_refitted() -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Tanh", net.linear(net.input("batch", 8), 8, 12))
    shared = net.weight(12, 12)
    for name in ("once", "twice"):
        x = net.node("Tanh", net.node("MatMul", x, shared, name=name))
    model = net.build(net.linear(x, 12, 3, name="last"))
    result = PruneChannels(ratio=0.3, align=1).run(model, correlated(model))
    assert [row["layer"] for row in result.details["refits"]] == ["last"]
    assert sum("weight is shared" in note for note in result.notes) == 2


def test_a_refit_that_does_not_help_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Moments, "solve", lambda self, weight, *, centred, ridge: np.full_like(weight, 1e3)
    )
    model = conv_net()
    context = correlated(model)
    plain = PruneChannels(ratio=0.3, compensate="none", align=1).run(model, context)
    result = PruneChannels(ratio=0.3, align=1).run(model, context)
    assert result.rewrites["layers refitted"] == 0
    assert sum("does not lower the error" in note for note in result.notes) == 4
    assert output_error(model, result, context) == output_error(model, plain, context)


def test_a_wide_layer_only_gets_its_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_net()
    context = correlated(model)
    plain = PruneChannels(ratio=0.3, compensate="none", align=1).run(model, context)
    monkeypatch.setattr(compensate, "MAX_INPUTS", 60)
    result = PruneChannels(ratio=0.3, align=1).run(model, context)
    assert any("only its bias is refitted" in note for note in result.notes)
    before, after = (m.graph.node("plain") for m in (plain.model, result.model))
    assert np.array_equal(constant(before, 1), constant(after, 1))
    assert len(before.inputs) == 2
    assert np.abs(constant(after, 2)).max() > 0


def constant(node: ir.Node, index: int) -> np.ndarray:
    array = constant_array(node.inputs[index])
    assert array is not None
    return array


@pytest.mark.parametrize("budget", [0, 20_000, 1 << 30])
def test_a_stream_gives_the_same_values_whatever_it_may_hold(budget: int) -> None:
    model = conv_net()
    context = correlated(model, 20)
    assert context.calibration is not None
    samples, specs = context.calibration, input_specs(model)
    stream = Stream(model, lambda: (f for f, _ in batches(samples, specs, 8)), budget=budget)
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    feed = {"x": np.concatenate([sample["x"] for sample in context.calibration])}
    for node in layers:
        value = node.inputs[0]
        assert value is not None
        got = np.concatenate(list(stream.values(node, str(value.name), after=False)))
        assert np.allclose(got, reference(model, str(value.name), feed), atol=1e-6)
    (final,) = model.graph.outputs
    got = np.concatenate(list(stream.values(layers[-1], str(final.name), after=True)))
    assert np.allclose(got, reference(model, str(final.name), feed), atol=1e-6)


def reference(model: ir.Model, name: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    from graphopt.runtime.tap import tapped

    return feed[name] if name in feed else Session(tapped(model, [name])).run(feed)[name]


def test_the_trained_network_keeps_its_accuracy(fixtures: Path) -> None:
    """30% of the channels of every group, half of the MACs, and no training."""
    model = graphopt.load(fixtures / "resnet.onnx")
    specs = input_specs(model)
    context = PassContext(calibration=open_samples(str(fixtures / "calib.npz"), specs))
    evaluation = open_evaluation(str(fixtures / "eval.npz"), specs)

    def accuracy(of: ir.Model) -> float:
        return evaluation.score(Session(of, optimize=True).run, Quiet())

    plain = PruneChannels(ratio=0.3, samples=128, compensate="none", align=1).run(model, context)
    refitted = PruneChannels(ratio=0.3, samples=128, align=1).run(model, context)
    before = accuracy(model)
    assert accuracy(plain.model) < before - 20
    assert accuracy(refitted.model) > before - 5
    full, half = graphopt.measure(model), graphopt.measure(refitted.model)
    assert half.macs < 0.55 * full.macs
    assert half.parameters < 0.55 * full.parameters


@pytest.mark.parametrize("count", [4, 5, 8, 16, 31])
def test_a_few_samples_are_enough_to_refit(count: int) -> None:
    rows = PruneChannels(ratio=0.3, align=1).run(matrix_net(), correlated(matrix_net(), count))
    assert not any("too few" in note for note in rows.notes)


def test_fewer_samples_than_a_check_needs_are_told() -> None:
    model = matrix_net()
    result = PruneChannels(ratio=0.3, align=1).run(model, correlated(model, 3))
    assert result.rewrites["layers refitted"] == 0
    few = "there are too few samples to check a refit"
    assert sum(note.endswith(few) for note in result.notes) == 4


def test_nothing_to_correct_is_not_told() -> None:
    """The channels that go were zero: neither a refit nor a reason against it."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.conv(net.input("batch", 3, 6, 6), (3, 8), name="first")
    model = net.build(net.head(net.node("Relu", x), 8))
    for name in ("first.weight", str(model.graph.node("first").inputs[2].name)):
        dead = np.array(model.graph.initializers[name].const_value.numpy())
        dead[:4] = 0
        model.graph.initializers[name].const_value = ir.tensor(dead, name=name)
    result = PruneChannels(ratio=0.5, align=1).run(model, correlated(model))
    assert result.rewrites == {"groups cut": 1, "channels cut": 4, "layers refitted": 0}
    assert not any("was not refitted" in note for note in result.notes)


def sides(
    monkeypatch: pytest.MonkeyPatch, model: ir.Model, feed: dict[str, np.ndarray]
) -> tuple[set[float], set[float]]:
    """Which samples (each filled with one number) the first refit fits, and which it holds out."""
    made: list[Recorder] = []

    class Recorder(Moments):
        def __init__(self, *shape: int, full: bool = True) -> None:
            super().__init__(*shape, full=full)
            self.seen: set[float] = set()
            made.append(self)

        def add(self, x: np.ndarray, y: np.ndarray) -> None:
            super().add(x, y)
            self.seen |= set(np.abs(x).max(axis=(0, 2)).round(3).tolist())

    monkeypatch.setattr(compensate, "Moments", Recorder)
    context = PassContext(calibration=ArraySamples("marked", feed, input_specs(model)))
    PruneChannels(ratio=0.5, align=1).run(model, context)
    return made[0].seen, made[1].seen


@pytest.mark.parametrize("count", [9, 37, 50])
@pytest.mark.parametrize("layout", ["batch first", "batch second", "fixed batch"])
def test_a_sample_is_on_one_side_only(
    count: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.input(8 if layout == "fixed batch" else "batch", 7, 4)
    if layout == "batch second":
        x = net.node("Transpose", x, perm=[1, 0, 2])
    eye = net.constant(np.concatenate([np.eye(4), np.eye(4) * 1e-3], axis=1))
    x = net.node("MatMul", x, eye, name="first")
    x = net.node("MatMul", x, net.weight(8, 3), name="last")
    model = net.build(net.node("Transpose", x, perm=[1, 0, 2]) if "second" in layout else x)
    numbers = np.arange(1, count + 1, dtype=np.float32)
    feed = {"x": np.broadcast_to(numbers[:, None, None], (count, 7, 4)).copy()}
    fitted, held_out = sides(monkeypatch, model, feed)
    assert not fitted & held_out
    assert len(fitted | held_out) == count
    assert len(held_out) == count // 4
