"""prune-channels is exact for recurrent layers, Einsum, norms over groups, quantized weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from prune_nets import Net, image, prune_exactly

UNITS, WIDTH = 6, 8
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(
    net: Net, kind: str, x: str, *states: str, inputs: int = WIDTH, outputs: int = 1, **rest: Any
) -> Any:
    """A recurrent layer of 6 units with the weights `w`, `r` and `b`."""
    directions = 2 if rest.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * UNITS
    w, r = net.weight(directions, rows, inputs), net.weight(directions, rows, UNITS)
    b = net.weight(directions, 2 * rows)
    return net.node(kind, x, w, r, b, *states, outputs=outputs, hidden_size=UNITS, **rest)


@pytest.mark.parametrize("kind", GATES)
def test_a_hidden_unit_goes_from_all_gates(kind: str) -> None:
    """Torch-Pruning #44, #276, #404."""
    net = Net()
    x = net.linear(net.input(7, 3, 4), 4, WIDTH)
    y = net.node("Squeeze", recurrent(net, kind, x), net.ints(1))
    outcome = prune_exactly(net.build(net.linear(y, UNITS, 3)))
    assert outcome.sizes() == [(8, 5), (6, 4)]
    (node,) = (node for node in outcome.pruned.graph if node.op_type == kind)
    gates = GATES[kind] * 4
    assert outcome.shape(node.inputs[1].name) == (1, gates, 5)
    assert outcome.shape(node.inputs[2].name) == (1, gates, 4)
    assert outcome.shape(node.inputs[3].name) == (1, 2 * gates)
    assert node.attributes.get_int("hidden_size") == 4


@pytest.mark.parametrize("kind", GATES)
def test_stacked_bidirectional_layers(kind: str) -> None:
    """Both directions lose the same units; the next layer reads them side by side."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.linear(net.input(7, 3, 4), 4, WIDTH)
    lengths = net.constant(np.array([7, 5, 6], dtype=np.int32))
    for inputs in (WIDTH, 2 * UNITS):
        y = recurrent(net, kind, x, lengths, inputs=inputs, direction="bidirectional")
        turned = net.node("Transpose", y, perm=[0, 2, 1, 3])
        x = net.node("Reshape", turned, net.ints(0, 0, -1))
    outcome = prune_exactly(net.build(net.linear(x, 2 * UNITS, 3)))
    assert outcome.sizes() == [(8, 5), (6, 4), (6, 4)]


def test_states_and_peepholes_follow() -> None:
    """An encoder's last states start the decoder; h, c and the gates are tied to one another."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.linear(net.input(7, 3, 4), 4, WIDTH)
    _, h, c = recurrent(net, "LSTM", x, outputs=3)
    decoded = recurrent(net, "LSTM", net.linear(x, WIDTH, WIDTH), "", h, c, net.weight(1, 18))
    y = net.node("Squeeze", decoded, net.ints(1))
    outcome = prune_exactly(net.build(net.linear(y, UNITS, 3)))
    assert outcome.sizes() == [(8, 5), (6, 4), (8, 5)]


@pytest.mark.parametrize("reset", [0, 1])
def test_gru_with_the_batch_in_front(reset: int) -> None:
    net = Net()
    x = net.linear(net.input("batch", 7, 4), 4, WIDTH)
    y = recurrent(net, "GRU", x, linear_before_reset=reset, layout=1)
    y = net.node("Squeeze", y, net.ints(2))
    outcome = prune_exactly(net.build(net.linear(y, UNITS, 3)))
    assert outcome.sizes() == [(8, 5), (6, 4)]


@pytest.mark.parametrize(
    ("equation", "shape", "sizes"),
    [
        ("btc,cd->btd", (8, 6), [(8, 5), (6, 4)]),
        ("btc, dc -> bdt", (6, 8), [(8, 5), (6, 4)]),
        ("btc,hcd->bthd", (3, 8, 4), [(8, 5), (4, 3)]),
        ("btc,c->bt", (8,), [(8, 5)]),
    ],
)
def test_einsum_ties_what_has_the_same_letter(
    equation: str, shape: tuple[int, ...], sizes: list[tuple[int, int]]
) -> None:
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 8)
    y = net.node("Einsum", x, net.weight(*shape), equation=equation)
    reduced = net.node("ReduceSum", net.node("Relu", y), net.ints(1), keepdims=0)
    flat = net.node("Flatten", reduced) if len(shape) > 1 else reduced
    width = {"btc,cd->btd": 6, "btc, dc -> bdt": 5, "btc,hcd->bthd": 12}.get(equation, 0)
    outcome = prune_exactly(net.build(net.linear(flat, width, 2) if width else flat))
    assert outcome.sizes() == sizes


def test_attention_by_einsum() -> None:
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 12)
    q, k, v = (net.node("Reshape", net.linear(x, 12, 12), net.ints(0, 0, 3, 4)) for _ in range(3))
    scores = net.node("Softmax", net.node("Einsum", q, k, equation="bqhd,bkhd->bhqk"), axis=-1)
    mixed = net.node("Einsum", scores, v, equation="bhqk,bkhd->bqhd")
    joined = net.node("Reshape", mixed, net.ints(0, 0, 12))
    outcome = prune_exactly(net.build(net.linear(joined, 12, 2)))
    assert outcome.sizes() == [(12, 8), (4, 3), (4, 3)]


@pytest.mark.parametrize("equation", ["...c,cd->...d", "btt,tc->bt"])
def test_equations_that_are_not_followed(equation: str) -> None:
    net = Net()
    x = net.linear(net.input("batch", 4, 4), 4, 4, name="before")
    y = net.node("Einsum", x, net.weight(4, 4), equation=equation)
    outcome = prune_exactly(net.build(y), cuts=False)
    assert any(
        "Einsum" in str(outcome.found.atoms.reason(a))
        for a in outcome.found.slots[0].labels[1].tolist()
    )


@pytest.mark.parametrize("space", [(6, 6), (9,)])
def test_group_norm_spelt_out(space: tuple[int, ...]) -> None:
    """Exporters write Reshape, InstanceNormalization, Reshape; each group loses as many."""
    net = Net()
    x = net.input("batch", 3, *space)
    x = net.node("Conv", x, net.weight(8, 3, *(1 for _ in space)), net.weight(8))
    parts = net.node("Reshape", x, net.ints(0, 2, -1))
    ones, zeros = net.constant(np.ones(2)), net.constant(np.zeros(2))
    parts = net.node("InstanceNormalization", parts, ones, zeros, epsilon=1e-4)
    y = net.node("Reshape", parts, net.ints(0, 8, *space))
    y = net.node("Mul", y, net.weight(8, *(1 for _ in space)))
    outcome = prune_exactly(net.build(net.head(net.node("Add", y, x), 8)))
    assert outcome.sizes() == [(4, 3)]


def test_group_norm() -> None:
    net, x = image(opset=21, kind=TensorProto.FLOAT)
    x = net.conv(x, (3, 9))
    y = net.node("GroupNormalization", x, net.weight(9), net.weight(9), num_groups=3, epsilon=1e-4)
    y = net.head(net.conv(y, (9, 5)), 5)
    # onnx's inference stops at a GroupNormalization: these state the type, and the shape.
    y = net.node("Reshape", net.node("Cast", y, to=TensorProto.FLOAT), net.ints(-1, 3))
    outcome = prune_exactly(net.build(y))
    assert outcome.sizes() == [(9, 6), (5, 3)]
    counts = [
        np.count_nonzero(outcome.cut.keep(block)) for block in outcome.found.balances[0].blocks
    ]
    assert counts == [2, 2, 2]


def test_instance_norm_over_space() -> None:
    net, x = image()
    x = net.node("InstanceNormalization", net.conv(x, (3, 9)), net.weight(9), net.weight(9))
    outcome = prune_exactly(net.build(net.head(x, 9)))
    assert outcome.sizes() == [(9, 6)]


def test_weights_quantized_by_channel() -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.conv(net.input("batch", 3, 6, 6), (3, 8))
    step, zero = net.constant(np.float32(0.05)), net.constant(np.int8(3))
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", x, step, zero), step, zero)
    numbers = np.random.default_rng(0).integers(-127, 127, (6, 8, 3, 3)).astype(np.int8)
    weight = net.constant(numbers, "quantized")
    steps, zeros = net.positive(6), net.constant(np.zeros(6, np.int8), "zeros")
    weight = net.node("DequantizeLinear", weight, steps, zeros, axis=0)
    x = net.node("Relu", net.node("Conv", x, weight, net.weight(6), pads=[1] * 4))
    outcome = prune_exactly(net.build(net.head(x, 6)))
    assert outcome.sizes() == [(8, 5), (6, 4)]
    assert outcome.shape("quantized") == (4, 5, 3, 3)
    assert outcome.shape("zeros") == (4,)


def test_scales_for_blocks_are_a_barrier() -> None:
    net = Net(kind=TensorProto.FLOAT, opset=21)
    x = net.linear(net.input("batch", 4), 4, 8)
    numbers = net.constant(np.ones((8, 6), np.int8))
    weight = net.node("DequantizeLinear", numbers, net.positive(2, 6), block_size=4, axis=0)
    outcome = prune_exactly(net.build(net.node("MatMul", x, weight)), cuts=False)
    reasons = {outcome.found.atoms.reason(a) for a in outcome.found.layers[0].out_labels.tolist()}
    assert len(reasons) == 1
    assert "scales for blocks" in str(reasons)


def test_whole_heads() -> None:
    """Each head goes with its queries, keys, values and its part of the output projection."""
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 12)
    q, k, v = (
        net.node(
            "Transpose",
            net.node("Reshape", net.linear(x, 12, 15), net.ints(0, 0, 3, 5)),
            perm=[0, 2, 1, 3],
        )
        for _ in range(3)
    )
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    joined = net.node(
        "Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, 0, 15)
    )
    model = net.build(net.linear(joined, 15, 2))
    assert prune_exactly(model, whole_heads=True).sizes() == [(12, 8), (3, 2)]
    assert prune_exactly(model).sizes() == [(12, 8), (5, 3), (5, 3)]


@pytest.mark.parametrize("whole", [False, True])
def test_grouped_queries_lose_groups_of_keys_and_values(whole: bool) -> None:
    """Six query heads share three heads of keys and values."""
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 12)

    def heads(count: int) -> str:
        split = net.node("Reshape", net.linear(x, 12, 8 * count), net.ints(0, 0, count, 8))
        return net.node("Transpose", split, perm=[0, 2, 1, 3])

    def repeated(y: str) -> str:
        apart = net.node("Unsqueeze", y, net.ints(2))
        spread = net.node("Expand", apart, net.ints(1, 1, 2, 1, 1))
        return net.node("Reshape", spread, net.ints(0, 6, -1, 8))

    q, k, v = heads(6), repeated(heads(3)), repeated(heads(3))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    joined = net.node(
        "Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, 0, 48)
    )
    outcome = prune_exactly(net.build(net.linear(joined, 48, 2)), whole_heads=whole)
    assert outcome.sizes() == [(12, 8), *([(3, 2)] if whole else [(8, 5), (8, 5)])]
