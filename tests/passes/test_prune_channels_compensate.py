"""prune-channels: the ways to compensate against direct computation, and their edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import Net

import graphopt
from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.ir import constant_array
from graphopt.reconstruction import Moments
from graphopt.runtime.session import Session
from graphopt.runtime.tap import tapped
from graphopt_passes.prune_channels import PruneChannels
from graphopt_passes.prune_channels.sensitivity import _Relation
from graphopt_passes.prune_channels.solvers import RIDGES, STEP

WAYS = ("ls", "scale-shift", "bias")
COUNT = 96


def context(model: ir.Model, count: int = COUNT, seed: int = 0) -> PassContext:
    """Samples whose elements depend on one another."""
    (spec,) = input_specs(model)
    shape = (count, *(dim or 1 for dim in spec.shape[1:]))
    maps = np.random.default_rng(99).standard_normal((3, int(np.prod(shape[1:]))))
    random = np.random.default_rng(seed)
    array = np.tanh(random.standard_normal((count, 3)) @ maps)
    array = (array + 0.2 * random.standard_normal(array.shape)).reshape(shape)
    feed = {spec.name: array.astype(spec.dtype)}
    return PassContext(calibration=ArraySamples("made", feed, (spec,)))


def images(of: PassContext) -> np.ndarray:
    assert of.calibration is not None
    return np.concatenate([sample["x"] for sample in of.calibration])


def value(model: ir.Model, name: str, x: np.ndarray) -> np.ndarray:
    return Session(tapped(model, [name])).run({"x": x})[name].astype(np.float64)


def array(node: ir.Node, index: int) -> np.ndarray:
    found = constant_array(node.inputs[index])
    assert found is not None
    return found.astype(np.float64)


def two_layers() -> ir.Model:
    net = Net(kind=TensorProto.FLOAT)
    hidden = net.node(
        "Tanh", net.node("Gemm", net.input("n", 8), net.weight(8, 12), net.weight(12))
    )
    return net.build(net.node("Gemm", hidden, net.weight(12, 5), net.weight(5), name="last"))


def refitted(model: ir.Model, way: str) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """The last layer's weight and bias, before and after, and what it reads and is to give."""
    data = context(model)
    plain = PruneChannels(ratio=0.4, align=1, compensate="none").run(model, data).model
    step = PruneChannels(ratio=0.4, align=1, compensate=way)  # type: ignore[arg-type]
    result = step.run(model, data)
    nodes = [m.graph.node("last") for m in (plain, result.model)]
    before, after = ((array(node, 1), array(node, 2)) for node in nodes)
    read = nodes[0].inputs[0]
    assert read is not None
    x = value(plain, str(read.name), images(data))
    y = value(model, str(model.graph.outputs[0].name), images(data))
    assert result.rewrites["layers refitted"] == 1
    return before, after, x, y


def test_bias_makes_the_means_equal() -> None:
    (weight, _), (new_weight, new_bias), x, y = refitted(two_layers(), "bias")
    assert np.array_equal(new_weight, weight)
    np.testing.assert_allclose(new_bias, (y - x @ weight).mean(axis=0), rtol=0, atol=1e-6)


def test_scale_and_shift_make_means_and_variances_equal() -> None:
    (weight, _), (new_weight, new_bias), x, y = refitted(two_layers(), "scale-shift")
    scale = y.std(axis=0) / (x @ weight).std(axis=0)
    np.testing.assert_allclose(new_weight, weight * scale, rtol=1e-5)
    given = x @ new_weight + new_bias
    np.testing.assert_allclose(given.mean(axis=0), y.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(given.std(axis=0), y.std(axis=0), rtol=1e-5)


def test_least_squares_takes_the_ridge_that_is_best_on_the_held_out_samples() -> None:
    (weight, _), (new_weight, new_bias), x, y = refitted(two_layers(), "ls")
    last = np.arange(len(x)) % 4 == 3

    def fit(ridge: float, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = x[rows] - x[rows].mean(axis=0), y[rows] - y[rows].mean(axis=0)
        strength = ridge * np.square(a).sum() / x.shape[1]
        found = np.linalg.solve(
            a.T @ a + strength * np.eye(x.shape[1]), a.T @ b + strength * weight
        )
        return found, y[rows].mean(axis=0) - x[rows].mean(axis=0) @ found

    def error(ridge: float) -> float:
        found, bias = fit(ridge, ~last)
        return float(np.square(y[last] - x[last] @ found - bias).sum())

    steps = round(np.log(RIDGES[1] / RIDGES[0]) / np.log(STEP))
    best = min((RIDGES[0] * STEP**step for step in range(steps + 1)), key=error)
    expected, bias = fit(best, np.ones(len(x), dtype=bool))
    np.testing.assert_allclose(new_weight, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(new_bias, bias, rtol=0, atol=1e-5)


def test_a_layer_makes_up_for_what_went_wrong_on_its_shortcut() -> None:
    """The shortcut is a layer that is refitted first, and what it cannot give the branch does."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.node("Gemm", net.input("n", 8), net.weight(8, 16), net.weight(16)))
    thin = net.node("Relu", net.node("Gemm", x, net.weight(16, 6), net.weight(6)))
    shortcut = net.node("Gemm", thin, net.weight(6, 5), net.weight(5), name="shortcut")
    branch = net.node("Gemm", x, net.weight(16, 5), net.weight(5), name="branch")
    model = net.build(net.node("Add", shortcut, branch))
    data = context(model)
    pruned = PruneChannels(ratio=0.4, align=1).run(model, data).model
    names = [str(model.graph.node(name).outputs[0].name) for name in ("shortcut", "branch")]
    total, alone = str(model.graph.outputs[0].name), names[1]
    other = images(context(model, seed=1))
    errors = [
        np.square(value(model, name, other) - value(pruned, name, other)).sum()
        for name in (total, alone)
    ]
    lone = sum(
        np.square(value(model, name, other) - value(pruned, name, other)).sum() for name in names
    )
    assert errors[0] < 0.7 * lone


def conv_net(kind: int = TensorProto.FLOAT) -> Net:
    net = Net(kind=kind)
    x = net.node("Relu", net.conv(net.input("n", 3, 6, 6), (3, 16), name="first"))
    x = net.node("Relu", net.conv(x, (16, 16), group=4, name="grouped"))
    x = net.node("Relu", net.conv(x, (16, 16), group=16, name="depthwise"))
    net.last = net.head(net.conv(x, (16, 8), name="plain"), 8)  # type: ignore[attr-defined]
    return net


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return value(model, str(model.graph.outputs[0].name), x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_convolutions_of_all_kinds_get_better(way: Any, kind: int) -> None:
    net = conv_net(kind)
    model = net.build(net.last)  # type: ignore[attr-defined]
    data, other = context(model), images(context(model, seed=1))
    plain = PruneChannels(ratio=0.3, align=1, compensate="none").run(model, data)
    result = PruneChannels(ratio=0.3, align=1, compensate=way).run(model, data)
    for row in result.details["refits"]:
        assert row["error_after"] < row["error_before"]
    layers = {row["layer"] for row in result.details["refits"]}
    assert {"grouped", "plain"} <= layers
    assert "depthwise" in layers or way == "bias"
    wanted = outputs(model, other)
    errors = [np.square(outputs(r.model, other) - wanted).sum() for r in (plain, result)]
    assert errors[1] < 0.8 * errors[0]
    assert {v.dtype for v in result.model.graph.initializers.values()} >= {ir.DataType(kind)}


@pytest.mark.parametrize("way", WAYS)
def test_channels_that_are_always_zero_do_no_harm(way: Any) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.conv(net.input("n", 3, 6, 6), (3, 16), name="first")
    x = net.node("Relu", net.conv(net.node("Relu", x), (16, 12), name="second"))
    model = net.build(net.head(x, 12))
    for name in ("first.weight", str(model.graph.node("first").inputs[2].name)):
        weight = model.graph.initializers[name].const_value
        assert weight is not None
        dead = np.array(weight.numpy())
        dead[3:13] = -np.abs(dead[3:13]) if dead.ndim == 1 else 0
        model.graph.initializers[name].const_value = ir.tensor(dead, name=name)
    result = PruneChannels(ratio=0.3, align=1, compensate=way).run(model, context(model))
    final = outputs(result.model, images(context(model, seed=1)))
    assert np.isfinite(final).all()
    for row in result.details["refits"]:
        assert row["error_after"] < row["error_before"]


@pytest.mark.parametrize("way", WAYS)
def test_one_sample_refits_nothing(way: Any) -> None:
    model = two_layers()
    result = PruneChannels(ratio=0.4, align=1, compensate=way).run(model, context(model, 1))
    assert result.rewrites["layers refitted"] == 0
    assert any("too few samples" in note for note in result.notes)


@pytest.mark.parametrize("way", WAYS)
def test_a_transposed_convolution_is_left_and_told(way: Any) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.conv(net.input("n", 3, 6, 6), (3, 16), name="first"))
    x = net.node("ConvTranspose", x, net.weight(16, 8, 2, 2), strides=[2, 2], name="up")
    model = net.build(net.head(net.node("Relu", x), 8))
    result = PruneChannels(ratio=0.3, align=1, compensate=way).run(model, context(model))
    assert "layer 'up' was not refitted: a ConvTranspose is not refitted" in result.notes


@pytest.mark.parametrize("way", ["scale-shift", "bias"])
def test_without_a_bias_means_stay(way: Any) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Tanh", net.linear(net.input("n", 8), 8, 24))
    model = net.build(net.node("MatMul", x, net.weight(24, 5), name="bare"))
    result = PruneChannels(ratio=0.4, align=1, compensate=way).run(model, context(model))
    assert len(result.model.graph.node("bare").inputs) == 2
    assert [node.op_type for node in result.model.graph] == [n.op_type for n in model.graph]


def test_the_scale_of_an_output_that_never_changes_is_one() -> None:
    sums = Moments(1, 2, 2)
    random = np.random.default_rng(0)
    x = np.stack([np.full(50, 3.0), random.standard_normal(50)], axis=1)[None]
    y = random.standard_normal((1, 50, 2))
    sums.add(x, y)
    weight = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    scale = sums.scale(weight, centred=True)
    assert scale[0, 0] == 1
    assert scale[0, 1] == pytest.approx(y[0, :, 1].std() / (2 * x[0, :, 1].std()))
    second = sums.scale(weight, centred=False)
    assert second[0, 0] == pytest.approx(np.sqrt(np.square(y[0, :, 0]).mean()) / 3)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="compensate must be ls or scale-shift or bias or none"):
        PruneChannels(compensate="all")  # type: ignore[arg-type]
    with pytest.raises(GraphoptError, match="compensate"):
        graphopt.optimize(two_layers(), "prune-channels{compensate=true}")


@pytest.mark.parametrize("quantized", [False, True])
def test_a_quantized_model_is_told_to_be_pruned_first(quantized: bool) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.conv(net.input("n", 3, 6, 6), (3, 16), name="first"))
    if quantized:
        step, zero = net.constant(np.float32(0.05)), net.constant(np.int8(0))
        x = net.node("DequantizeLinear", net.node("QuantizeLinear", x, step, zero), step, zero)
    model = net.build(net.head(net.node("Relu", net.conv(x, (16, 8), name="second")), 8))
    result = PruneChannels(ratio=0.3, align=1).run(model, context(model))
    assert any("prune the float model" in note for note in result.notes) == quantized


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(4))
def test_channels_that_never_change_are_not_told_from_one_another(seed: int, scale: float) -> None:
    """All that is left of their covariance is rounding, whose matrix may be singular."""
    constants = scale * np.random.default_rng(seed).standard_normal(66)
    rows, keep = np.tile(constants, (1024, 1)), np.arange(66) < 48
    relation = _Relation()
    relation.add(rows)
    relation.add(rows)
    matrix, mean = relation.told(keep)
    assert np.abs(matrix).max() < 0.1
    np.testing.assert_allclose(constants[keep] @ matrix + mean, constants[~keep], atol=1e-9)
