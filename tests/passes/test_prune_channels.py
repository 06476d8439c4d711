"""prune-channels: options, barriers, what is left alone, and the self-check."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import serialized
from onnx import TensorProto, helper
from prune_nets import BARE, Net, chain, evaluate, noise, prune_exactly, random_feed, weight

from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.pipeline.base import PassResult
from graphopt.pipeline.text import parse
from graphopt.runtime.session import Session
from graphopt.targets import get_target
from graphopt_passes.prune_channels import PruneChannels, run, selfcheck
from graphopt_passes.prune_channels.groups import find_groups
from graphopt_passes.prune_channels.masking import masked
from graphopt_passes.prune_channels.sweep import Op


def test_the_share_is_cut_and_the_interface_stays() -> None:
    model = chain()
    before = serialized(model)
    result = PruneChannels(ratio=0.3, align=1).run(model, noise(model))
    assert serialized(model) == before, "the model that was given must not change"
    assert result.modified
    assert weight(result.model, "first.weight").shape == (7, 3, 3, 3)
    assert weight(result.model, "second.weight").shape == (6, 7, 3, 3)
    assert result.model.graph.inputs[0].shape == model.graph.inputs[0].shape
    assert str(result.model.graph.outputs[0].shape) == "[batch,3]"
    assert result.rewrites == {"groups cut": 2, "channels cut": 5, "layers refitted": 2}
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    for batch in (1, 5):
        (output,) = Session(result.model).run(random_feed(model, batch)).values()
        assert output.shape == (batch, 3)


def test_what_is_cut_is_told() -> None:
    model = chain()
    details = PruneChannels(ratio=0.3, align=1).run(model, noise(model)).details
    assert details["groups"] == [
        {"group": "first", "channels": 10, "kept": 7, "macs": 35640, "macs_left": 20412},
        {"group": "second", "channels": 8, "kept": 6, "macs": 25944, "macs_left": 13626},
    ]
    assert details["kept"] == {"head": {"graph output 'gemm_11'": 3}}
    assert details["self_check"]["worst"] < 1e-5
    assert details["self_check"]["tensors"] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ratio=0", "ratio must be above 0 and below 1, not 0.0"),
        ("ratio=1", "ratio must be above 0 and below 1"),
        ("ratio=-0.5", "ratio must be above 0"),
        ("ratio=many", "takes a number"),
        ("align=0", "align must be at least 1"),
        ("samples=1", "samples must be at least 8"),
        ("score=l3", "did you mean 'l2'"),
        ("ration=0.5", "did you mean 'ratio'"),
    ],
)
def test_invalid_options(options: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        parse(f"prune-channels{{{options}}}")


def test_options_print_back() -> None:
    text = "prune-channels{ratio=0.5,score=l1,compensate=bias,align=8,exclude=[a/*,b]}"
    pipeline = parse(text)
    assert str(pipeline) == text
    assert pipeline.steps[0] == PruneChannels(
        ratio=0.5, score="l1", compensate="bias", align=8, exclude=("a/*", "b")
    )


def test_the_options_are_light_to_import() -> None:
    code = (
        "import sys; import graphopt_passes.prune_channels as p; p.PruneChannels();"
        "print([m for m in ('numpy', 'onnx', 'onnx_ir', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("options", [{}, {"score": "l1"}, {"compensate": "none"}])
def test_without_calibration_data_it_says_what_to_do(options: dict[str, Any]) -> None:
    with pytest.raises(GraphoptError, match=r"prune-channels\{score=l1,compensate=none\}"):
        PruneChannels(align=1, **options).run(chain(), PassContext())


def test_l1_without_compensation_needs_no_data() -> None:
    model = chain()
    step = PruneChannels(align=1, **BARE)
    assert step.required() == ()
    result = step.run(model, PassContext())
    assert any("not refitted" in note for note in result.notes)
    kept = np.sort(np.argsort(np.abs(weight(model, "first.weight")).sum((1, 2, 3)))[3:])
    expected = weight(model, "first.weight")[kept]
    assert np.array_equal(weight(result.model, "first.weight"), expected)


def test_the_activation_score_sees_what_l1_does_not() -> None:
    """A channel with large weights that is always zero behind its ReLU goes first."""
    model = chain()
    loud = weight(model, "first.weight").copy()
    loud[4] = -10 * np.abs(loud[4])
    model.graph.initializers["first.weight"].const_value = ir.tensor(loud, name="first.weight")
    feed = {name: np.abs(array) for name, array in random_feed(model, 64).items()}
    context = PassContext(calibration=ArraySamples("noise", feed, input_specs(model)))
    step = PruneChannels(ratio=0.1, compensate="none", align=1)
    assert not np.isin(loud[4], weight(step.run(model, context).model, "first.weight")).any()
    by_weight = PruneChannels(ratio=0.1, **BARE, align=1).run(model, context)
    assert np.isin(loud[4], weight(by_weight.model, "first.weight")).all()


@pytest.mark.parametrize(("align", "kept"), [(1, 6), (4, 8), (8, 8), (10, 10), (16, 8)])
def test_what_is_left_is_rounded_up(align: int, kept: int) -> None:
    model = chain()
    result = PruneChannels(ratio=0.4, align=align, **BARE).run(model, PassContext())
    assert weight(result.model, "first.weight").shape[0] == kept


def test_the_target_says_how_to_round() -> None:
    context = PassContext(target=get_target("sm86"))
    result = PruneChannels(ratio=0.4, **BARE).run(chain(), context)
    assert weight(result.model, "first.weight").shape[0] == 8
    assert "channels stay in multiples of 8: 11% of them are cut" in result.notes


@pytest.mark.parametrize(("channels", "kept"), [(40, 32), (32, 16), (16, 16), (12, 8), (8, 4)])
def test_counts_fit_what_cpus_take_at_once(channels: int, kept: int) -> None:
    """Unless a group has fewer than a block of 16: that keeps the half of one, or the quarter."""
    result = halved(channels, "onnxruntime-cpu", ratio=0.5)
    assert [row["kept"] for row in result.details["groups"]] == [kept]


def test_without_a_target_a_share_is_kept_and_a_total_is_met_in_blocks() -> None:
    result = halved(40, "generic", ratio=0.5)
    assert [row["kept"] for row in result.details["groups"]] == [20]
    assert any("counts are not rounded" in note for note in result.notes)
    options, context = PruneChannels(macs=0.3), PassContext(target=get_target("generic"))
    assert run._alignment(options, context) == 16


def halved(channels: int, target: str, **options: Any) -> PassResult:
    net = Net()
    x = net.conv(net.input("batch", 3, 6, 6), (3, channels))
    model = net.build(net.conv(net.node("Relu", x), (channels, 4)))
    return PruneChannels(**options, **BARE).run(model, PassContext(target=get_target(target)))


def test_a_model_of_single_blocks_says_how_to_cut_it_all_the_same() -> None:
    result = halved(16, "onnxruntime-cpu", ratio=0.5)
    assert not result.modified
    assert any("align=1 cuts them" in note for note in result.notes)


def test_alignment_counts_positions_not_atoms() -> None:
    """Four heads lose dimensions together: 4 positions for each atom."""
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 32)
    heads = net.node("Reshape", x, net.ints(0, 0, 4, 8))
    merged = net.node("Reshape", net.node("Relu", heads), net.ints(0, 0, 32))
    model = net.build(net.linear(merged, 32, 3))
    assert prune_exactly(model, 0.4, align=1).sizes() == [(8, 5)]
    assert prune_exactly(model, 0.4, align=8).sizes() == [(8, 6)]
    assert prune_exactly(model, 0.4, align=32, cuts=False).sizes() == [(8, 8)]


def test_nothing_to_cut_is_no_change() -> None:
    model = chain()
    result = PruneChannels(ratio=0.05, **BARE, align=1).run(model, PassContext())
    assert not result.modified
    assert result.model is model
    message = "no channels can be cut: the share 0.05 of 10 channels, the largest group, is less"
    assert result.notes[0] == f"{message} than one"


@pytest.mark.parametrize("glob", ["first", "fir*"])
def test_excluded_nodes_keep_their_outputs(glob: str) -> None:
    model = chain()
    result = PruneChannels(exclude=(glob,), align=1, **BARE).run(model, PassContext())
    assert weight(result.model, "first.weight").shape[0] == 10
    assert weight(result.model, "second.weight").shape[0] == 6
    assert "the option 'exclude' keeps 10 channels of 1 layer" in result.notes


def test_all_nodes_of_an_operator_can_be_excluded() -> None:
    operators = {node.op_type for node in chain().graph if len(node.inputs) > 1}
    result = PruneChannels(exclude=tuple(operators), **BARE).run(chain(), PassContext())
    assert not result.modified


def test_excluding_a_node_that_is_not_there() -> None:
    with pytest.raises(GraphoptError, match=r"no node or operator is called 'frist'.*mean 'first'"):
        PruneChannels(exclude=("frist",), **BARE).run(chain(), PassContext())


def test_the_same_bytes_again() -> None:
    model = chain()
    first, second = (PruneChannels().run(model, noise(model)).model for _ in range(2))
    assert serialized(first) == serialized(second)


def custom(domain: str) -> onnx.FunctionProto:
    """A function of the model's own: it squares."""
    node = helper.make_node("Mul", ["a", "a"], ["b"])
    return helper.make_function(
        domain, "Mystery", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]
    )


def test_an_unknown_operator_keeps_all_it_touches_and_is_named() -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.conv(net.input("batch", 3, 6, 6), (3, 10), name="before")
    side = net.conv(x, (10, 8), name="side")
    y = net.node("Mystery", x, domain="custom", name="what")
    shaped = net.node("Reshape", y, net.ints(-1, 10, 6, 6))
    joined = net.node("Concat", net.conv(shaped, (10, 6), name="after"), side, axis=1)
    model = net.build(
        net.head(joined, 14), functions=(custom("custom"),), domains=("custom",), check=False
    )
    result = PruneChannels(ratio=0.5, **BARE, align=1).run(model, PassContext())
    assert weight(result.model, "before.weight").shape == (10, 3, 3, 3)
    assert weight(result.model, "after.weight").shape == (3, 10, 3, 3)
    assert weight(result.model, "side.weight").shape == (4, 10, 3, 3)
    reason = "Mystery 'what' (channels are not followed through it)"
    assert result.details["kept"]["before"] == {reason: 10}
    assert f"{reason} keeps 10 channels of 1 layer" in result.notes


def test_what_a_subgraph_captures_stays() -> None:
    net = Net(kind=TensorProto.FLOAT)
    flag = net.input(name="flag", kind=TensorProto.BOOL)
    x = net.conv(net.input("batch", 3, 6, 6), (3, 10), name="captured")
    shared = net.weight(10, 1, 1, name="shared")
    y = net.conv(net.node("Mul", x, shared), (10, 8), name="free")
    branches = [
        helper.make_graph(
            [helper.make_node(kind, [x, shared], [f"{kind}_out"])],
            kind,
            [],
            [helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, None)],
        )
        for kind in ("Add", "Sub")
    ]
    chosen = net.node("If", flag, then_branch=branches[0], else_branch=branches[1], name="if")
    shaped = net.node("Reshape", chosen, net.ints(-1, 10, 6, 6))
    total = net.node("Add", net.head(y, 8), net.head(shaped, 10, name="other"))
    model = net.build(total, check=False)
    result = PruneChannels(ratio=0.5, **BARE, align=1).run(model, PassContext())
    assert weight(result.model, "captured.weight").shape[0] == 10
    assert weight(result.model, "free.weight").shape[:2] == (4, 10)
    assert weight(result.model, "shared").shape == (10, 1, 1)
    assert any(note.startswith("If 'if'") for note in result.notes)
    for truth in (True, False):
        feed = {**random_feed(model, 2), "flag": np.array(truth)}
        Session(result.model).run(feed)


def test_graph_outputs_stay_wherever_they_are() -> None:
    net = Net()
    x = net.conv(net.input("batch", 3, 6, 6), (3, 10), name="seen")
    y = net.conv(net.node("Relu", x), (10, 8), name="hidden")
    outcome = prune_exactly(net.build(net.head(y, 8), x))
    assert outcome.sizes() == [(8, 5)]


def test_an_initializer_that_callers_may_override_stays() -> None:
    net = Net()
    x = net.conv(net.input("batch", 3, 6, 6), (3, 10))
    open_weight = net.weight(8, 10, 1, 1)
    net.input(8, 10, 1, 1, name=open_weight)
    y = net.node("Conv", x, open_weight)
    outcome = prune_exactly(net.build(net.head(net.conv(y, (8, 6)), 6)))
    assert outcome.sizes() == [(6, 4)]


def test_a_free_axis_other_than_the_batch_needs_samples() -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.linear(net.input("batch", "tokens", 4), 4, 8, name="first")
    model = net.build(net.linear(net.node("Relu", x), 8, 2))
    with pytest.raises(GraphoptError, match=r"axis 1 is free.*give samples \(--calib SRC\)"):
        PruneChannels(align=1, **BARE).run(model, PassContext())
    feed = {"x": np.zeros((16, 9, 4), np.float32)}
    context = PassContext(calibration=ArraySamples("zeros", feed, input_specs(model)))
    result = PruneChannels(align=1, **BARE).run(model, context)
    assert result.modified
    for tokens in (1, 30):
        run_on = {"x": np.ones((2, tokens, 4), np.float32)}
        (output,) = Session(result.model).run(run_on).values()
        assert output.shape == (2, tokens, 2)


def test_masking_is_zeroing_where_no_norm_is_in_the_way() -> None:
    """The reference of the exactness test is what a user would do by hand: zero the channels."""
    model = chain(TensorProto.DOUBLE)
    outcome = prune_exactly(model)
    feed = random_feed(model, 2)
    by_hand = model.clone()
    for layer in outcome.found.layers[:2]:
        for index in (1, 2):
            value = by_hand.graph.node(layer.name).inputs[index]
            assert value is not None
            array = weight(by_hand, str(value.name)).copy()
            array[~outcome.cut.keep(layer.out_labels)] = 0
            value.const_value = ir.tensor(array, name=value.name)
    final = str(model.graph.outputs[0].name)
    zeroed = evaluate(by_hand, feed)[final]
    assert np.allclose(zeroed, evaluate(outcome.pruned, feed)[final], rtol=0, atol=1e-12)
    silenced = evaluate(masked(model, outcome.found, outcome.cut), feed)[final]
    assert np.allclose(zeroed, silenced, rtol=0, atol=1e-12)


def test_a_breach_leaves_the_model_and_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(op: Op) -> None:
        x = op.labels(0)
        op.emit([x[0], np.roll(x[1], 1), *x[2:]])

    monkeypatch.setitem(run.RULES, "Relu", shifted)
    model = chain()
    before = serialized(model)
    with pytest.raises(GraphoptError, match=r"off by .* of its peak.*groups: first"):
        PruneChannels(align=1, **BARE).run(model, PassContext())
    assert serialized(model) == before


def test_difference_is_relative_to_the_peak_and_strict_about_infinities() -> None:
    a = np.array([1.0, -4.0, np.inf, np.nan])
    assert selfcheck.relative_difference(a, a) == 0
    assert selfcheck.relative_difference(a, np.array([1.5, -4.0, np.inf, np.nan])) == 0.125
    assert selfcheck.relative_difference(a, np.array([1.0, -4.0, 0.0, np.nan])) == np.inf
    assert np.isnan(selfcheck.relative_difference(np.ones(1), np.array([np.nan])))


def test_groups_are_found_in_the_order_of_the_graph() -> None:
    found = run.analyse(chain())
    assert [group.name for group in find_groups(found)] == ["first", "second"]
