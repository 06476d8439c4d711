"""Scores from weights, what all scores share, and what happens where one has nothing to say."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import BARE, chain, image, noise, weight

from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.ir import check
from graphopt.ir.serialized import serialize
from graphopt_passes.prune_channels import PruneChannels, Score, run
from graphopt_passes.prune_channels.groups import find_groups, is_scored
from graphopt_passes.prune_channels.scores import SCORES, Scores, score

NAMES = get_args(Score)


def scored(model: ir.Model, name: Any, context: PassContext | None = None) -> tuple[Scores, Any]:
    """The scores of `model`, and its groups."""
    found = run.analyse(model)
    groups = find_groups(found)
    options = PruneChannels(score=name)
    return score(options, model, found, groups, context or noise(model, 16)), groups


def normed() -> ir.Model:
    """Conv, BN, ReLU; then a Gemm whose channels no BN scales."""
    net, x = image(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.norm(net.conv(x, (3, 6), name="first"), 6))
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    hidden = net.node("Gemm", flat, net.weight(6, 8), net.weight(8), name="hidden")
    return net.build(net.node("Gemm", net.node("Relu", hidden), net.weight(8, 3), name="last"))


def test_the_option_and_the_table_name_the_same_scores() -> None:
    assert set(SCORES) == set(NAMES)
    assert all(idea.fallback in (None, *NAMES) for idea in SCORES.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_scores_of_a_group_have_mean_one(name: str, kind: int) -> None:
    model = normed() if name == "bn" else chain(kind=kind)
    scores, groups = scored(model, name)
    assert len(groups) == 2
    for group in groups:
        atoms = group.atoms.tolist()
        values = np.array([scores[atom] for atom in atoms])
        raw = np.array([scores.raw[atom] for atom in atoms])
        assert (values >= 0).all()
        assert abs(values.mean() - 1) < 1e-12
        assert np.allclose(values * raw.mean(), raw, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["activation", "l2", "obs", "taylor"])
def test_half_precision_gives_the_scores_of_single(name: str) -> None:
    """Weights and data of half precision, of the values that single precision has."""
    half = chain(kind=TensorProto.FLOAT16)
    single = chain(kind=TensorProto.FLOAT)
    for key, value in single.graph.initializers.items():
        value.const_value = ir.tensor(weight(half, key).astype(np.float32), name=key)
    feed = {"x": np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype(np.float16)}
    results = []
    for model, x in ((half, feed["x"]), (single, feed["x"].astype(np.float32))):
        context = PassContext(calibration=ArraySamples("same", {"x": x}, input_specs(model)))
        results.append(scored(model, name, context)[0])
    for atom, value in results[1].items():
        assert abs(results[0][atom] - value) <= 0.02 * max(value, 0.1)


def test_l2_sums_the_squares_of_all_slices() -> None:
    """Of what makes a channel and of what reads it; not of biases."""
    model = chain()
    scores, groups = scored(model, "l2")
    first, second = weight(model, "first.weight"), weight(model, "second.weight")
    expected = np.square(first.astype(float)).sum((1, 2, 3))
    expected = expected + np.square(second.astype(float)).sum((0, 2, 3))
    raw = [scores.raw[atom] for atom in groups[0].atoms.tolist()]
    assert np.allclose(raw, expected, rtol=1e-12, atol=0)


def test_l2_leaves_norms_out() -> None:
    model = normed()
    before = scored(model, "l2")[0]
    for name in [
        str(v.name) for n in model.graph if "Batch" in n.op_type for v in n.inputs[1:] if v
    ]:
        model.graph.initializers[name].const_value = ir.tensor(
            100 * np.abs(weight(model, name)) + 1, name=name
        )
    assert scored(model, "l2")[0].raw == before.raw


def test_bn_is_the_size_of_gamma() -> None:
    model = normed()
    scores, groups = scored(model, "bn")
    norm = next(node for node in model.graph if node.op_type == "BatchNormalization")
    gamma = np.abs(weight(model, str(norm.inputs[1].name)))  # type: ignore[union-attr]
    raw = [scores.raw[atom] for atom in groups[0].atoms.tolist()]
    assert np.allclose(raw, gamma, rtol=1e-7, atol=0)


def test_a_group_without_gamma_is_scored_by_l2_and_told() -> None:
    model = normed()
    scores, groups = scored(model, "bn")
    reason = "no BatchNormalization scales its channels"
    assert scores.notes == (f"group 'hidden' is scored by 'l2': {reason}",)
    other = scored(model, "l2")[0]
    for atom in groups[1].atoms.tolist():
        assert scores.raw[atom] == other.raw[atom]


def test_bn_is_refused_where_there_is_no_gamma_at_all() -> None:
    message = r"score=bn needs the scales of BatchNormalizations.*folded.*take another score"
    with pytest.raises(GraphoptError, match=message):
        PruneChannels(score="bn", compensate=False).run(chain(), PassContext())


def test_random_needs_no_data_and_is_the_same_each_time() -> None:
    step = PruneChannels(ratio=0.5, score="random", compensate=False)
    assert step.required() == ()
    results = [step.run(chain(), PassContext()).model for _ in range(2)]
    one, other = (b"".join(serialize(result).chunks()) for result in results)
    assert one == other
    by_weight = PruneChannels(**{**BARE, "ratio": 0.5}).run(chain(), PassContext()).model
    assert not np.array_equal(weight(results[0], "first.weight"), weight(by_weight, "first.weight"))


def test_fallbacks_go_on_until_one_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = normed()
    idea = SCORES["l2"]
    monkeypatch.setitem(SCORES, "l2", type(idea)(lambda task: {}, idea.fallback))
    scores, groups = scored(model, "bn")
    assert [note.split(":")[0] for note in scores.notes] == [
        "group 'hidden' is scored by 'l2'",
        "group 'hidden' is scored by 'l1'",
    ]
    assert all(is_scored(group, scores) for group in groups)


def test_scores_that_are_all_zero_or_huge_or_not_finite() -> None:
    model = chain()
    groups = find_groups(run.analyse(model))
    first, second = (group.atoms.tolist() for group in groups)
    raw = {**dict.fromkeys(first, 0.0), **dict.fromkeys(second, 1e308)}
    scores = Scores(raw, groups, [])
    assert all(scores[atom] == 0 for atom in first)
    assert all(abs(scores[atom] - 1) < 1e-12 for atom in second)
    raw[first[0]] = float("nan")
    assert not is_scored(groups[0], Scores(raw, groups, []))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bn"])
def test_layers_that_are_int8_already_do_not_stop_the_others(name: Any) -> None:
    net, x = image(kind=TensorProto.FLOAT)
    integers = np.random.default_rng(0).integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    scale = net.constant(np.float32(0.01))
    small = net.node("DequantizeLinear", net.constant(integers, "int8"), scale)
    x = net.node("Relu", net.node("Conv", x, small, name="quantized", pads=[1, 1, 1, 1]))
    x = net.node("Relu", net.conv(x, (6, 10), name="float"))
    model = net.build(net.head(x, 10))
    result = PruneChannels(ratio=0.5, score=name, align=1).run(model, noise(model, 16))
    assert len(weight(result.model, "float.weight")) == 5
    check(result.model, where="test")
