"""What other pruners got wrong: graphs out of the issues of Torch-Pruning (by number), made small.

The others of them are on the pages beside this one: #9 and #328 (grouped and depthwise
convolutions), #38 (rounding), #44, #276 and #404 (recurrent layers), #146 (a value joined with
itself), #147 (C2f), #481 (a concatenation taken for one group).
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from prune_nets import Net, Outcome, evaluate, image, prune_exactly, random_feed


def reasons(outcome: Outcome, layer: str) -> set[str | None]:
    """Why the outputs of a layer stay; None for those that may go."""
    (found,) = (item for item in outcome.found.layers if item.name == layer)
    return {outcome.found.atoms.reason(atom) for atom in found.out_labels.tolist()}


def test_a_view_in_front_of_a_transposed_convolution() -> None:
    """#125: features become 6 channels of 2 by 2 pixels; a channel takes four features along."""
    net = Net()
    x = net.linear(net.input("batch", 5), 5, 24, name="features")
    x = net.node("Reshape", x, net.ints(-1, 6, 2, 2))
    x = net.node("ConvTranspose", x, net.weight(6, 8, 2, 2), net.weight(8), strides=[2, 2])
    outcome = prune_exactly(net.build(net.head(net.node("Relu", x), 8)))
    assert outcome.sizes() == [(6, 4), (8, 5)]
    assert outcome.shape("w_1") == (5, 16)


def test_a_convolution_of_one_output_is_not_depthwise() -> None:
    """#126, #179: a map of attention over space has one channel, which stays."""
    net, x = image()
    x = net.conv(x, (3, 8))
    attention = net.node("Sigmoid", net.conv(x, (8, 1), name="map"))
    outcome = prune_exactly(net.build(net.head(net.node("Mul", x, attention), 8)))
    assert outcome.sizes() == [(8, 5)]
    assert outcome.shape("map.weight") == (1, 5, 3, 3)


def test_patches_are_merged() -> None:
    """#258, #362: Swin joins each two by two tokens, normalizes and halves their features."""
    net = Net()
    x = net.linear(net.input("batch", 6, 6, 4), 4, 6)
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        bounds = net.ints(row, column), net.ints(6, 6), net.ints(1, 2), net.ints(2, 2)
        parts.append(net.node("Slice", x, *bounds))
    x = net.node("Concat", *parts, axis=-1)
    x = net.node("LayerNormalization", x, net.weight(24), net.weight(24), axis=-1)
    x = net.node("MatMul", x, net.weight(24, 12, name="reduction"))
    outcome = prune_exactly(net.build(net.linear(net.node("Relu", x), 12, 3)))
    assert outcome.sizes() == [(6, 4), (12, 8)]
    assert outcome.shape("reduction") == (16, 8)


@pytest.mark.parametrize("computed", [False, True])
def test_static_head_sizes(computed: bool) -> None:
    """#340, #357, #450: 3 and 4, or 12, written into the shapes of a traced attention."""
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 12)
    split, joined = net.ints(-1, 5, 3, 4), net.ints(-1, 5, 12)
    if computed:
        length = net.node("Slice", net.node("Shape", x), net.ints(1), net.ints(2))
        split = net.node("Concat", net.ints(-1), length, net.ints(3), net.ints(4), axis=0)
        joined = net.node("Concat", net.ints(-1), length, net.ints(12), axis=0)
    q, k, v = (
        net.node("Transpose", net.node("Reshape", net.linear(x, 12, 12), split), perm=[0, 2, 1, 3])
        for _ in range(3)
    )
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    merged = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
    outcome = prune_exactly(net.build(net.linear(merged, 12, 2)))
    assert outcome.sizes() == [(12, 8), (4, 3), (4, 3)]
    for batch in (1, 6):
        result = evaluate(outcome.pruned, random_feed(outcome.pruned, batch))
        assert result[str(outcome.pruned.graph.outputs[0].name)].shape == (batch, 5, 2)


@pytest.mark.parametrize(
    ("op_type", "rest"),
    [("CumSum", {}), ("TopK", {"axis": 1}), ("Softmax", {"axis": 1}), ("ArgMax", {"axis": 1})],
)
def test_what_looks_at_all_channels_keeps_them(op_type: str, rest: dict[str, int]) -> None:
    net, x = image()
    x = net.conv(net.node("Relu", net.conv(x, (3, 6), name="free")), (6, 8), name="kept")
    extra = {"CumSum": [net.constant(np.array(1))], "TopK": [net.ints(3)]}.get(op_type, [])
    y = net.node(op_type, x, *extra, outputs=2 if op_type == "TopK" else 1, **rest)
    y = y[0] if op_type == "TopK" else y
    y = net.node("Cast", y, to=TensorProto.DOUBLE)
    channels = {"TopK": 3, "ArgMax": 1}.get(op_type, 8)
    outcome = prune_exactly(net.build(net.head(y, channels)))
    assert outcome.sizes() == [(6, 4)]
    (reason,) = reasons(outcome, "kept")
    assert str(reason).startswith(f"{op_type} '")


def test_where_and_prelu() -> None:
    net, x = image()
    x = net.node("PRelu", net.conv(x, (3, 8)), net.weight(8, 1, 1))
    mask = net.constant(np.arange(8).reshape(8, 1, 1) % 2 == 0)
    y = net.node("Where", mask, net.conv(x, (8, 8)), net.weight(8, 1, 1))
    outcome = prune_exactly(net.build(net.head(y, 8)))
    assert outcome.sizes() == [(8, 5), (8, 5)]


def test_tiled_and_shuffled_pixels() -> None:
    net, x = image()
    x = net.node("Tile", net.conv(x, (3, 6)), net.ints(1, 2, 1, 1))
    x = net.node("SpaceToDepth", net.conv(x, (12, 5)), blocksize=3)
    outcome = prune_exactly(net.build(net.head(x, 45)))
    assert outcome.sizes() == [(6, 4), (5, 3)]


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_what_a_loop_captures_stays(kind: str) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.conv(net.input("batch", 3, 6, 6), (3, 8), name="captured")
    mean = net.node("GlobalAveragePool", x)
    scalar = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceMean", [mean], ["m"], keepdims=0),
        helper.make_node("Add", ["state", "m"], ["next"]),
    ]
    states = [scalar("state", TensorProto.FLOAT, [])], [scalar("next", TensorProto.FLOAT, [])]
    if kind == "Loop":
        nodes.append(helper.make_node("Identity", ["go"], ["again"]))
        inputs = [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, [])]
        outputs = [scalar("again", TensorProto.BOOL, [])]
        body = helper.make_graph(nodes, "body", inputs + states[0], outputs + states[1])
        count, go = net.constant(np.array(3)), net.constant(np.array(True))
        total = net.node("Loop", count, go, net.constant(np.array(0.0)), body=body, name="loop")
    else:
        body = helper.make_graph(
            nodes, "body", [*states[0], scalar("item", TensorProto.FLOAT, [])], states[1]
        )
        items, start = net.constant(np.zeros(3)), net.constant(np.array(0.0))
        total = net.node("Scan", start, items, body=body, num_scan_inputs=1, name="loop")
    y = net.head(net.conv(x, (8, 6), name="free"), 6)
    outcome = prune_exactly(
        net.build(net.node("Add", y, net.node("Reshape", total, net.ints(1, 1))))
    )
    assert outcome.sizes() == [(6, 4)]
    (reason,) = reasons(outcome, "captured")
    assert str(reason).startswith(f"{kind} 'loop'")


def test_a_call_of_a_function_is_a_barrier() -> None:
    """Of the default domain even: what it does is in the model, and not in the standard."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.conv(net.input("batch", 3, 6, 6), (3, 8), name="before")
    y = net.node("Twice", x, domain="mine", name="call")
    side = net.head(net.conv(x, (8, 6)), 6)
    twice = helper.make_function(
        "mine",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [onnx.helper.make_opsetid("", 17)],
    )
    whole = net.node("ReduceMean", net.node("Reshape", y, net.ints(1, -1)), axes=[1])
    total = net.node("Add", side, whole)
    model = net.build(total, functions=(twice,), domains=("mine",), check=False)
    outcome = prune_exactly(model)
    assert outcome.sizes() == [(6, 4)]
    assert reasons(outcome, "before") == {"Twice 'call' (channels are not followed through it)"}
