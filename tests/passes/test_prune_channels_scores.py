"""prune-channels: bad data, channels that are hard to score, and why nothing is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from prune_nets import BARE, Net, chain, noise, random_feed, weight

from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels, run
from graphopt_passes.prune_channels.facts import Facts
from graphopt_passes.prune_channels.groups import choose, find_groups
from graphopt_passes.prune_channels.scores import SCORES, Idea, score
from graphopt_passes.prune_channels.sweep import Op, Sweep


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"score": "l1"}])
def test_data_that_is_not_finite_is_refused(bad: float, options: dict[str, Any]) -> None:
    model = chain()
    feed = random_feed(model, 40)
    feed["x"][39, 0, 0, 0] = bad
    context = PassContext(calibration=ArraySamples("bad", feed, input_specs(model)))
    message = r"^tensor '.+': takes NaN or an infinite value on the calibration data; check the"
    with pytest.raises(GraphoptError, match=message):
        PruneChannels(ratio=0.5, **options).run(model, context)


def left_weight() -> tuple[Net, str, np.ndarray]:
    """Eight rows of a weight on the left of a MatMul; the last four are zero."""
    net = Net(kind=TensorProto.FLOAT)
    array = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    array[4:] = 0
    hidden = net.node("MatMul", net.constant(array, "maker"), net.input("batch", 4, 6))
    y = net.node("MatMul", net.weight(5, 8, name="reader"), net.node("Relu", hidden), name="left")
    return net, y, array


def deep_weight() -> tuple[Net, str, np.ndarray]:
    net = Net(kind=TensorProto.FLOAT)
    array = np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)
    array[:, :, 4:] = 0
    hidden = net.node("MatMul", net.input(2, 3, 4), net.constant(array, "maker"))
    y = net.node("MatMul", net.node("Relu", hidden), net.weight(2, 8, 5), name="deep")
    return net, y, array


def gemm_weight() -> tuple[Net, str, np.ndarray]:
    """On the left of a Gemm, transposed."""
    net = Net(kind=TensorProto.FLOAT)
    array = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    array[:, 4:] = 0
    hidden = net.node("Gemm", net.constant(array, "maker"), net.input(4, 6), transA=1)
    y = net.node("Gemm", net.weight(5, 8), net.node("Relu", hidden), name="gemm")
    return net, y, array


@pytest.mark.parametrize("build", [left_weight, deep_weight, gemm_weight])
@pytest.mark.parametrize("score", ["l1", "activation"])
@pytest.mark.parametrize("dead_first", [False, True])
def test_products_with_other_weights_lose_what_is_dead(
    build: Any, score: Any, dead_first: bool
) -> None:
    net, y, array = build()
    model = net.build(y)
    if dead_first:
        array = np.ascontiguousarray(array[tuple(slice(None, None, -1) for _ in array.shape)])
        model.graph.initializers["maker"].const_value = ir.tensor(array, name="maker")
    step = PruneChannels(ratio=0.5, score=score, compensate="none")
    feed = random_feed(model, 2)
    samples = ArraySamples("noise", random_feed(model, 8), input_specs(model))
    result = step.run(model, PassContext(calibration=samples))
    assert result.rewrites["channels cut"] == 4
    (before,), (after,) = (Session(m).run(feed).values() for m in (model, result.model))
    assert np.allclose(before, after, rtol=0, atol=1e-5)


def test_a_product_weighs_what_it_reads() -> None:
    """Loud channels that the constant on the left multiplies by nothing go first."""
    net, y, _ = left_weight()
    model = net.build(y)
    maker = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    maker[:4] *= 100
    model.graph.initializers["maker"].const_value = ir.tensor(maker, name="maker")
    reader = weight(model, "reader").copy()
    reader[:, :4] = 0
    model.graph.initializers["reader"].const_value = ir.tensor(reader, name="reader")
    result = PruneChannels(ratio=0.5, compensate="none").run(model, noise(model, 8))
    assert np.array_equal(weight(result.model, "maker"), maker[4:])


def test_products_with_other_weights_are_told_not_to_be_refitted() -> None:
    for build, reason in (
        (left_weight, "layer 'left' was not refitted: its weight is on the left"),
        (deep_weight, "layer 'deep' was not refitted: its weight has more than two axes"),
        (gemm_weight, "layer 'gemm' was not refitted: its weight is on the left"),
    ):
        net, y, _ = build()
        model = net.build(y)
        samples = ArraySamples("noise", random_feed(model, 8), input_specs(model))
        notes = PruneChannels(ratio=0.5).run(model, PassContext(calibration=samples)).notes
        assert reason in notes


def test_channels_without_a_score_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "l1", Idea(lambda task: {}))
    result = PruneChannels(**BARE).run(chain(), PassContext())
    assert not result.modified
    assert "group 'first' stays whole: its channels have no score" in result.notes
    assert "group 'second' stays whole: its channels have no score" in result.notes


def test_a_weight_that_is_not_finite_keeps_its_group() -> None:
    model = chain()
    broken = weight(model, "first.weight").copy()
    broken[3, 0, 0, 0] = np.nan
    model.graph.initializers["first.weight"].const_value = ir.tensor(broken, name="first.weight")
    found = run.analyse(model)
    groups = find_groups(found)
    scores = score(PruneChannels(**BARE), model, found, groups, PassContext())
    cut = choose(found, groups, scores, 0.5, 1)
    assert [cut.count(group.atoms) for group in find_groups(found)] == [10, 4]


@pytest.mark.parametrize("size", [1, 2])
def test_a_sample_that_is_too_small(size: int) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Conv", net.input("batch", 3, "h", "w"), net.weight(8, 3, 3, 3), name="big")
    y = net.node("Conv", net.node("Relu", x), net.weight(5, 8, 3, 3), name="next")
    model = net.build(y)
    feed = {"x": np.zeros((8, 3, size, size), np.float32)}
    context = PassContext(calibration=ArraySamples("tiny", feed, input_specs(model)))
    with pytest.raises(GraphoptError, match=r"^node '(big|next)': the first sample is too small"):
        PruneChannels().run(model, context)


def test_why_nothing_can_be_cut() -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.input("batch", 3, 6, 6)
    open_weight = net.weight(8, 3, 1, 1)
    net.input(8, 3, 1, 1, name=open_weight)
    overridable = net.build(net.node("Conv", x, open_weight, name="open"))
    net = Net(kind=TensorProto.FLOAT)
    nothing = net.build(net.node("Relu", net.input("batch", 3)))
    net = Net(kind=TensorProto.FLOAT)
    square = helper.make_node("MatMul", ["a", "a"], ["b"])
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("custom", "Mystery", ["a"], ["b"], [square], imports)
    hidden = net.node("Mystery", net.input(3, 3), domain="custom")
    inside = net.build(hidden, functions=(function,), domains=("custom",), check=False)
    for model, reason in (
        (overridable, "callers may override the weight of 'open'"),
        (nothing, "no layer has a constant weight"),
        (inside, "1 layer is in functions or subgraphs, which are left alone"),
    ):
        result = PruneChannels(**BARE).run(model, PassContext())
        assert result.notes[0].startswith(f"no channels can be cut: {reason}")


def test_a_node_without_any_name_is_still_named() -> None:
    node = ir.node("Mystery", [], num_outputs=2, domain="custom", name="")
    node.outputs[0].name, node.outputs[1].name = "", "second"
    sweep = Sweep(chain(), Facts())
    assert str(Op(sweep, 7, node)) == "Mystery 'second'"
    node.outputs[1].name = ""
    assert str(Op(sweep, 7, node)) == "Mystery 'node 7'"
