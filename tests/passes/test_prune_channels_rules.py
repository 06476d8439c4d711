"""prune-channels: each operator's rule is exact.

`prune_exactly` cuts random channels and compares every tensor, in float64, with the original in
which the same channels are silenced.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from prune_nets import Net, image, prune_exactly

from graphopt import GraphoptError
from graphopt_passes.prune_channels import rules_layout, run
from graphopt_passes.prune_channels.sweep import Op


def test_plain_chain() -> None:
    net, x = image()
    x = net.node("Relu", net.norm(net.conv(x, (3, 10)), 10))
    x = net.node("MaxPool", net.conv(x, (10, 7)), kernel_shape=[2, 2], strides=[2, 2])
    outcome = prune_exactly(net.build(net.head(x, 7)))
    assert outcome.sizes() == [(10, 6), (7, 5)]
    assert outcome.pruned.graph.outputs[0].shape[1] == 3


@pytest.mark.parametrize("space", [(9,), (6, 5, 7)])
def test_convolutions_over_one_and_three_axes(space: tuple[int, ...]) -> None:
    net = Net()
    x = net.input("batch", 3, *space)
    for inputs, outputs in ((3, 8), (8, 5)):
        kernel = net.weight(outputs, inputs, *(3 for _ in space))
        x = net.node("Relu", net.node("Conv", x, kernel, net.weight(outputs)))
    outcome = prune_exactly(net.build(net.head(x, 5)))
    assert outcome.sizes() == [(8, 5), (5, 3)]


def test_residual_sums_tie_their_branches() -> None:
    net, x = image()
    stem = net.conv(x, (3, 10))
    branch = net.conv(net.node("Relu", net.conv(stem, (10, 6))), (6, 10))
    total = net.node("Relu", net.node("Add", stem, branch))
    outcome = prune_exactly(net.build(net.head(total, 10)))
    assert outcome.sizes() == [(10, 6), (6, 4)]


def test_concat_keeps_its_parts_apart() -> None:
    net, x = image()
    left, right = net.conv(x, (3, 5)), net.conv(x, (3, 8))
    joined = net.conv(net.node("Concat", left, right, axis=1), (13, 4))
    outcome = prune_exactly(net.build(net.head(joined, 4)))
    assert outcome.sizes() == [(5, 3), (8, 5), (4, 3)]


def test_concat_of_a_value_with_itself() -> None:
    net, x = image()
    once = net.conv(x, (3, 5))
    joined = net.conv(net.node("Concat", once, once, axis=1), (10, 4), name="reader")
    outcome = prune_exactly(net.build(net.head(joined, 4)))
    assert outcome.sizes() == [(5, 3), (4, 3)]
    assert outcome.shape("reader.weight")[:2] == (3, 6)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise(multiplier: int) -> None:
    net, x = image()
    x = net.conv(net.node("Relu", net.conv(x, (3, 6))), (6, 6 * multiplier), group=6)
    x = net.conv(x, (6 * multiplier, 5), kernel=1)
    outcome = prune_exactly(net.build(net.head(x, 5)))
    assert outcome.sizes() == [(6, 4), (5, 3)]
    depthwise = next(n for n in outcome.pruned.graph if n.attributes.get_int("group", 1) > 1)
    assert depthwise.attributes.get_int("group") == 4


def test_a_convolution_with_one_input_and_output_is_not_depthwise() -> None:
    net, x = image(1)
    gate = net.node("Sigmoid", net.conv(net.conv(x, (1, 6)), (6, 1)))
    x = net.node("Mul", net.conv(x, (1, 8)), net.conv(gate, (1, 1)))
    outcome = prune_exactly(net.build(net.head(x, 8)))
    assert outcome.sizes() == [(6, 4), (8, 5)]


def test_grouped_convolution_loses_as_many_channels_in_each_group() -> None:
    net, x = image()
    grouped = net.conv(net.conv(x, (3, 12)), (12, 15), group=3, name="grouped")
    outcome = prune_exactly(net.build(net.head(grouped, 15)))
    # The inputs of the groups are tied by their shared weight axis; the outputs are not.
    assert outcome.sizes() == [(4, 3), (15, 9)]
    node = outcome.pruned.graph.node("grouped")
    assert node.attributes.get_int("group") == 3
    kept = outcome.cut.keep(outcome.found.layers[1].out_labels).reshape(3, 5)
    assert (kept.sum(axis=1) == 3).all()
    assert not (kept == kept[0]).all(), "each group should choose for itself"


def test_two_groupings_of_the_same_channels_are_tied_where_they_disagree() -> None:
    net, x = image()
    first = net.conv(x, (3, 12), kernel=1)
    second = net.conv(net.conv(first, (12, 12), group=2), (12, 12), group=3)
    prune_exactly(net.build(net.head(second, 12)))


def test_squeeze_excite() -> None:
    net, x = image()
    x = net.conv(x, (3, 9))
    pooled = net.node("GlobalAveragePool", x)
    reduced = net.node("Relu", net.conv(pooled, (9, 4), kernel=1))
    gate = net.node("HardSigmoid", net.conv(reduced, (4, 9), kernel=1))
    outcome = prune_exactly(net.build(net.head(net.node("Mul", x, gate), 9)))
    assert outcome.sizes() == [(9, 6), (4, 3)]


def test_flatten_before_a_product() -> None:
    net, x = image()
    flat = net.node("Flatten", net.conv(x, (3, 5)))
    weight = net.weight(5 * 36, 8)
    hidden = net.node("Gemm", flat, weight, net.weight(8))
    outcome = prune_exactly(net.build(net.linear(net.node("Relu", hidden), 8, 2)))
    assert outcome.sizes() == [(5, 3), (8, 5)]
    assert outcome.shape(weight) == (3 * 36, 5)


def test_split_with_equal_and_with_stated_parts() -> None:
    net, x = image()
    a, b = net.node("Split", net.conv(x, (3, 8)), outputs=2, axis=1)
    sizes = net.ints(3, 5)
    c, d = net.node("Split", net.conv(x, (3, 8)), sizes, outputs=2, axis=1)
    joined = net.node("Concat", net.conv(a, (4, 6)), b, c, net.node("Neg", d), axis=1)
    outcome = prune_exactly(net.build(net.head(joined, 18)))
    sizes_after = outcome.pruned.graph.initializers[sizes].const_value
    assert sizes_after is not None
    assert sizes_after.numpy().tolist() == [2, 3]
    # Each part is a group: no part can be emptied.
    assert outcome.sizes() == [(4, 3), (4, 3), (3, 2), (5, 3), (6, 4)]


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_in_every_opset(opset: int) -> None:
    net, x = image(opset=opset)
    rest = {"num_outputs": 2} if opset >= 18 else {}
    a, b = net.node("Split", net.conv(x, (3, 10)), outputs=2, axis=1, **rest)
    longer = net.node("Concat", b, net.conv(net.node("Relu", b), (5, 7)), axis=1)
    total = net.node("Add", net.head(net.conv(a, (5, 4)), 4), net.head(longer, 12))
    outcome = prune_exactly(net.build(total), exclude=("relu_*",))
    # Only the first part can be cut, so that the parts are no longer equal.
    assert outcome.sizes() == [(5, 3), (7, 5), (4, 3)]


def test_c2f() -> None:
    """YOLOv8's block: split, bottlenecks with shortcuts, and everything concatenated."""
    net, x = image()
    a, b = net.node("Split", net.node("Relu", net.conv(x, (3, 12))), outputs=2, axis=1)
    parts = [a, b]
    for _ in range(2):
        inner = net.conv(net.node("Relu", net.conv(parts[-1], (6, 5))), (5, 6))
        parts.append(net.node("Add", parts[-1], inner))
    joined = net.conv(net.node("Concat", *parts, axis=1), (24, 7))
    outcome = prune_exactly(net.build(net.head(joined, 7)))
    assert outcome.sizes() == [(6, 4), (6, 4), (5, 3), (5, 3), (7, 5)]


def test_channel_shuffle() -> None:
    net, x = image()
    x = net.conv(x, (3, 12))
    x = net.node("Reshape", x, net.ints(0, 3, 4, 6, 6))
    x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.node("Reshape", x, net.ints(0, -1, 6, 6))
    outcome = prune_exactly(net.build(net.head(net.conv(x, (12, 5), group=1), 5)))
    assert outcome.sizes() == [(4, 3), (5, 3)]


def test_slice_and_gather_of_channels() -> None:
    net, x = image()
    x = net.conv(x, (3, 10))
    front = net.node("Slice", x, net.ints(0), net.ints(4), net.ints(1))
    back = net.node("Slice", x, net.ints(-6), net.ints(2**62), net.ints(1))
    mixed = net.node("Gather", back, net.ints(5, 0, -2, 0), axis=1)
    joined = net.node("Concat", front, mixed, axis=1)
    outcome = prune_exactly(net.build(net.head(net.conv(joined, (8, 4)), 4)))
    assert sum(after for _, after in outcome.sizes()) < sum(n for n, _ in outcome.sizes())


def test_a_slice_with_a_step_keeps_its_axis() -> None:
    net, x = image()
    x = net.conv(x, (3, 10))
    half = net.node("Slice", x, net.ints(0), net.ints(10), net.ints(1), net.ints(2))
    outcome = prune_exactly(net.build(net.head(net.conv(half, (5, 6)), 6)))
    assert outcome.sizes() == [(6, 4)]


def test_tied_convolutions() -> None:
    """The same weight in two places ties inputs with inputs and outputs with outputs."""
    net, x = image()
    weight, bias = net.weight(6, 6, 3, 3), net.weight(6)
    pads = {"pads": [1, 1, 1, 1]}
    once = net.node("Relu", net.node("Conv", net.conv(x, (3, 6)), weight, bias, **pads))
    twice = net.node("Conv", once, weight, bias, **pads)
    outcome = prune_exactly(net.build(net.head(twice, 6)))
    assert outcome.sizes() == [(6, 4)]
    assert outcome.shape(weight)[:2] == (4, 4)


def test_a_shared_bias_does_not_tie() -> None:
    net, x = image()
    bias = net.constant(np.zeros(6))
    first = net.node("Conv", x, net.weight(6, 3, 1, 1), bias)
    second = net.node("Conv", first, net.weight(6, 6, 1, 1), bias)
    outcome = prune_exactly(net.build(net.head(second, 6)))
    assert outcome.sizes() == [(6, 4), (6, 4)]


def test_elementwise_constants_are_cut_with_the_channels() -> None:
    net, x = image()
    x = net.conv(x, (3, 8))
    x = net.node("Add", net.node("Mul", x, net.weight(8, 1, 1)), net.weight(1, 8, 6, 6))
    x = net.node("PRelu", x, net.weight(8, 1, 1))
    mask = net.constant(np.arange(8).reshape(1, 8, 1, 1) % 3 > 0)
    x = net.node("Where", mask, x, net.node("Clip", x, net.constant(-1.0), net.constant(1.0)))
    outcome = prune_exactly(net.build(net.head(x, 8)))
    assert outcome.sizes() == [(8, 5)]


def test_norms_over_space_pass() -> None:
    net, x = image()
    x = net.node("InstanceNormalization", net.conv(x, (3, 8)), net.weight(8), net.weight(8))
    outcome = prune_exactly(net.build(net.head(x, 8)))
    assert outcome.sizes() == [(8, 5)]


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("spelt_out", [False, True])
def test_layer_norm(opset: int, spelt_out: bool) -> None:
    """Over fewer channels the statistics are others; the masked model counts the same ones."""
    net = Net(opset=opset)
    x = net.linear(net.input("batch", 5, 4), 4, 10)
    if spelt_out:
        axes = {"axes": [-1]} if opset < 18 else {}
        more = [] if opset < 18 else [net.ints(-1)]
        centred = net.node("Sub", x, net.node("ReduceMean", x, *more, **axes))
        square = net.node("Pow", centred, net.constant(2.0))
        mean = net.node("ReduceMean", square, *more, **axes)
        root = net.node("Sqrt", net.node("Add", mean, net.constant(1e-5)))
        y = net.node("Div", centred, root)
        y = net.node("Add", net.node("Mul", y, net.weight(10)), net.weight(10))
    else:
        y = net.node("LayerNormalization", x, net.weight(10), net.weight(10), axis=-1)
    outcome = prune_exactly(net.build(net.linear(net.node("Add", x, y), 10, 3)))
    assert outcome.sizes() == [(10, 6)]


REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions_over_channels(kind: str) -> None:
    net, x = image()
    x = net.conv(x, (3, 7))
    axes = [net.ints(1)] if kind == "Sum" else []
    attributes = {} if axes else {"axes": [1]}
    gate = net.node(f"Reduce{kind}", x, *axes, keepdims=1, **attributes)
    outcome = prune_exactly(net.build(net.head(net.node("Mul", x, gate), 7)))
    assert outcome.sizes() == [(7, 5)]


@pytest.mark.parametrize("group", [1, 6])
def test_conv_transpose(group: int) -> None:
    net, x = image()
    x = net.conv(x, (3, 6))
    outputs = 1 if group == 6 else 5
    weight, bias = net.weight(6, outputs, 2, 2), net.weight(outputs * group)
    x = net.node("ConvTranspose", x, weight, bias, strides=[2, 2], group=group)
    outcome = prune_exactly(net.build(net.head(x, outputs * group)))
    assert outcome.sizes() == ([(6, 4), (5, 3)] if group == 1 else [(6, 4)])


def test_a_constant_on_the_left_of_a_product() -> None:
    net = Net()
    x = net.linear(net.input("batch", 7, 4), 4, 6)
    x = net.node("MatMul", net.weight(9, 7), x)
    x = net.node("Transpose", net.linear(x, 6, 5), perm=[0, 2, 1])
    outcome = prune_exactly(net.build(net.linear(x, 9, 2)))
    assert outcome.sizes() == [(6, 4), (9, 6)]


def test_gemm_in_all_its_forms() -> None:
    net = Net()
    x = net.input(4, 5)
    x = net.node("Gemm", x, net.weight(5, 8), net.weight(1, 8), alpha=0.5, beta=2.0)
    x = net.node("Gemm", x, net.weight(6, 8), transB=1)
    turned = net.node("Transpose", x)
    x = net.node("Gemm", turned, net.weight(6, 7), net.weight(7), transA=1)
    outcome = prune_exactly(net.build(net.linear(x, 7, 2)))
    assert outcome.sizes() == [(8, 5), (6, 4), (7, 5)]


def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exactness test can fail: with the parts of Concat in the wrong order it does."""

    def backwards(op: Op) -> None:
        x = [op.labels(index) for index in range(len(op.node.inputs))]
        joined = np.concatenate([labels[1] for labels in reversed(x)])
        op.emit([x[0][0], joined, *x[0][2:]])

    monkeypatch.setitem(run.RULES, "Concat", backwards)
    net, x = image()
    left, right = net.conv(x, (3, 5)), net.conv(x, (3, 5))
    joined = net.conv(net.node("Concat", left, right, axis=1), (10, 4))
    with pytest.raises(GraphoptError, match="internal inconsistency: tensor 'concat_7' is off by"):
        prune_exactly(net.build(net.head(joined, 4)))


def test_rules_are_only_for_operators_that_exist() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(run.RULES) <= known
    assert set(rules_layout.RULES) <= set(run.RULES)
