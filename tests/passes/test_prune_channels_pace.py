"""prune-channels: channels go where that saves time, on targets whose pace is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import serialized
from prune_nets import Net, chain, image, noise

from graphopt import PassContext
from graphopt.ir import measure
from graphopt.targets import Pace, get_target
from graphopt_passes.prune_channels import PruneChannels, run
from graphopt_passes.prune_channels.allocation import Ladder, allocate
from graphopt_passes.prune_channels.budget import TITLES, Budget, Quantity, conv_time
from graphopt_passes.prune_channels.groups import Group, find_groups
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.run import analyse

PACE = Pace(block=16, sets=(0.4, 0.6, 0.8, 1.0), depthwise=4.0)
PIXELS = 36
"""Of the maps of `image`."""


def narrow_and_wide() -> ir.Model:
    """A group of 32 channels, and one of 128: half of the first is a sixth of its Conv's MACs."""
    net, x = image(kind=onnx.TensorProto.FLOAT)
    x = net.node("Relu", net.conv(x, (3, 32), name="narrow"))
    x = net.node("Relu", net.conv(x, (32, 128), name="wide"))
    return net.build(net.head(x, 128))


def prepared(model: ir.Model) -> tuple[Labelling, list[Group]]:
    found = analyse(model)
    return found, find_groups(found)


def saved(budget: Budget, group: int, count: int) -> tuple[float, float]:
    """MACs and time after cutting the first `count` atoms of a group, all else being whole."""
    size = len(budget._places[group][1].T)
    after = budget.without(group, np.arange(size) < count, budget.full)
    return budget.saved(group, budget.full, after), budget.time_saved(group, budget.full, after)


def test_the_time_of_a_conv_goes_by_sets_of_blocks() -> None:
    channels = np.array([8, 16, 32, 40, 64, 80, 128, 144])
    expected = [0.2, 0.4, 0.6, 0.7, 1.0, 1.4, 2.0, 2.4]
    assert conv_time(PACE, channels) == pytest.approx(expected)
    assert (np.diff(conv_time(PACE, np.arange(1, 300))) > 0).all()


def test_a_cut_saves_time_by_blocks_of_outputs_and_in_proportion_to_inputs() -> None:
    model = narrow_and_wide()
    found, groups = prepared(model)
    budget = Budget(model, found, groups, "macs", PACE)
    first, second = PIXELS * 27 * 32, PIXELS * 9 * 32 * 128
    # 32 channels take 0.6 of a set of 64, whose MACs take one each.
    assert saved(budget, 0, 16) == pytest.approx(
        (first / 2 + second / 2, PIXELS * 27 * 64 * (0.6 - 0.4) + second / 2), abs=1
    )
    head = 3 * 128
    assert saved(budget, 1, 48) == pytest.approx(
        (3 / 8 * (second + head), second / 2 * (2.0 - 1.4) + 3 / 8 * head), abs=1
    )


def test_what_is_cut_on_both_sides_of_a_conv() -> None:
    """Channels that a skip ties: a layer that makes them reads them as well."""
    net, x = image()
    x = net.node("Relu", net.conv(x, (3, 64)))
    x = net.node("Relu", net.node("Add", x, net.conv(x, (64, 64))))
    model = net.build(net.head(x, 64))
    found, groups = prepared(model)
    assert len(groups) == 1
    budget = Budget(model, found, groups, "macs", PACE)
    time = PIXELS * 27 * 64 * (1 - 0.6) + PIXELS * 9 * 64 * 64 * (1 - 0.6 / 2) + 3 * 32
    assert saved(budget, 0, 32)[1] == pytest.approx(time, abs=1)


@pytest.mark.parametrize(
    ("groups", "time"), [(64, 4.0), (4, 64 / 16 * 0.4), (2, 64 / 32 * 0.6), (1, 1.0)]
)
def test_grouped_and_depthwise_convs_are_slower(groups: int, time: float) -> None:
    """Of a Conv that is not cut, the share of a group in the MACs of what it reads."""
    net, x = image()
    x = net.conv(x, (3, 64), kernel=1)
    x = net.conv(x, (64, 64), group=groups, name="grouped")
    model = net.build(net.node("Relu", net.conv(x, (64, 8), kernel=1)))
    found, parts = prepared(model)
    budget = Budget(model, found, parts, "macs", PACE)
    (term,) = [t for t in budget._terms if t.amount == PIXELS * 9 * 64 * 64 // groups]
    assert term.slow == pytest.approx(time)
    assert (term.made is None) == (groups == 64)


@pytest.mark.parametrize("axes", ["sequence", "fixed weight"])
def test_other_layers_take_time_by_their_macs(axes: str) -> None:
    net = Net()
    if axes == "sequence":
        x = net.input("batch", 3, 20)
        x = net.node("Conv", x, net.weight(32, 3, 3), pads=[1, 1])
        x = net.node("Conv", net.node("Relu", x), net.weight(8, 32, 1))
    else:
        x = net.linear(net.linear(net.input("batch", 8), 8, 32), 32, 4)
    model = net.build(x)
    found, groups = prepared(model)
    macs, time = saved(Budget(model, found, groups, "macs", PACE), 0, 16)
    assert macs == time == measure(model).macs / 2


@pytest.mark.parametrize("quantity", TITLES)
def test_without_a_pace_and_for_weights_time_is_the_saving(quantity: Quantity) -> None:
    model = chain()
    found, groups = prepared(model)
    pace = None if quantity == "macs" else PACE
    for number in range(len(groups)):
        amount, time = saved(Budget(model, found, groups, quantity, pace), number, 3)
        assert amount == time > 0


def branches() -> ir.Model:
    """16 channels of either branch are as many MACs; 80 take a set of one block beside the 64."""
    net, x = image(kind=onnx.TensorProto.FLOAT)
    narrow = net.node("Relu", net.conv(x, (3, 32), name="narrow"))
    wide = net.node("Relu", net.conv(x, (3, 80), name="wide"))
    heads = [net.head(narrow, 32, name="a"), net.head(wide, 80, name="b")]
    return net.build(net.node("Add", net.node("Mul", heads[0], net.constant(LOUD)), heads[1]))


LOUD = 0.4
"""With this, cutting 16 channels of the narrow branch hurts a little less."""


def test_the_group_that_saves_more_time_goes_first() -> None:
    model = branches()
    found, groups = prepared(model)
    scores = {atom: 1.0 for group in groups for atom in group.atoms.tolist()}
    ladders = [Ladder.of(group, scores, 16) for group in groups]
    curves = [np.array([0, 1.0]), np.array([0, 1.5, 4.0, 9.0, 20.0])]
    kept = []
    for pace in (None, PACE):
        budget = Budget(model, found, groups, "macs", pace)
        cut = allocate(found, budget, ladders, curves, 0.9 * budget.whole)
        assert budget.left(cut) <= 0.9 * budget.whole
        kept.append([cut.count(group.atoms) for group in groups])
    assert kept == [[16, 80], [32, 64]]


def pruned(context: PassContext, **options: Any) -> tuple[bytes, list[int]]:
    result = PruneChannels(samples=64, **options).run(branches(), context)
    return serialized(result.model), [row["kept"] for row in result.details["groups"]]


def test_a_target_without_a_pace_and_other_goals_cut_as_before() -> None:
    cpu = get_target("onnxruntime-cpu")
    data = noise(branches(), 64)
    paced, plain = (replace(data, target=target) for target in (cpu, replace(cpu, pace=None)))
    engine = replace(data, target=get_target("sm86"))
    assert pruned(engine, macs=0.1, align=16) == pruned(plain, macs=0.1)
    for options in ({"params": 0.1}, {"macs": 0.1, "align": 8}, {"ratio": 0.3}):
        assert pruned(paced, **options) == pruned(plain, **options)
    assert pruned(plain, macs=0.1)[1] == [16, 80]
    assert pruned(paced, macs=0.1)[1] == [32, 64]


@pytest.mark.parametrize("target", ["generic", "sm86"])
def test_an_output_ahead_of_a_layer_that_is_cut(target: str) -> None:
    """Nothing behind it reads it, nor what it is made of."""
    net, x = image(kind=onnx.TensorProto.FLOAT)
    first = net.node("Relu", net.conv(x, (3, 64)))
    early = net.conv(x, (3, 3))
    wide = net.node("Relu", net.conv(first, (64, 64)))
    model = net.build(early, net.head(wide, 64))
    context = replace(noise(model, 64), target=get_target(target))
    result = PruneChannels(macs=0.3, samples=64).run(model.clone(), context)
    assert result.unmet is None
    assert measure(result.model).macs <= 0.7 * measure(model).macs


@pytest.mark.parametrize(
    ("target", "align", "known"),
    [("generic", 16, True), ("onnxruntime-cpu", 32, True), ("generic", 1, False),
     ("onnxruntime-cpu", 24, False), ("sm86", 16, False)],
)  # fmt: skip
def test_a_pace_is_of_counts_in_whole_blocks(target: str, align: int, known: bool) -> None:
    context = PassContext(target=get_target(target))
    assert run._pace(context, align) == (context.target.pace if known else None)
