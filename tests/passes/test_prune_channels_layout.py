"""prune-channels is exact where channels are moved, joined and read: attention, tables, pixels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import Net, evaluate, image, prune_exactly, random_feed


def test_attention_with_a_fused_projection() -> None:
    """Heads keep their number and lose the same dimensions each, in queries, keys and values."""
    outcome = prune_exactly(attention())
    assert outcome.sizes() == [(12, 8), (4, 3)]
    assert outcome.shape("qkv") == (8, 3 * 3 * 3)


def attention(computed_shape: bool = False) -> ir.Model:
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 12)
    qkv = net.node("MatMul", x, net.weight(12, 36, name="qkv"))
    heads, joined = net.ints(0, 0, 3, 3, 4), net.ints(0, 0, 12)
    if computed_shape:
        batch, tokens, width = (
            net.node("Gather", net.node("Shape", x), net.ints(axis), axis=0) for axis in range(3)
        )
        size = net.node("Div", width, net.ints(3))
        heads = net.node("Concat", batch, tokens, net.ints(3), net.ints(3), size, axis=0)
        joined = net.node("Concat", batch, tokens, width, axis=0)
    split = net.node("Transpose", net.node("Reshape", qkv, heads), perm=[2, 0, 3, 1, 4])
    q, k, v = (net.node("Gather", split, net.constant(np.array(i)), axis=0) for i in range(3))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    scaled = net.node("Mul", scores, net.constant(0.5))
    mixed = net.node("MatMul", net.node("Softmax", scaled, axis=-1), v)
    merged = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
    x = net.node("Add", x, net.linear(merged, 12, 12))
    return net.build(net.linear(x, 12, 3))


def test_shapes_computed_from_what_is_cut_are_restated() -> None:
    outcome = prune_exactly(attention(computed_shape=True))
    assert outcome.sizes() == [(12, 8), (4, 3)]
    for batch in (1, 7):
        feed = random_feed(outcome.pruned, batch)
        result = evaluate(outcome.pruned, feed)
        assert result[str(outcome.pruned.graph.outputs[0].name)].shape == (batch, 5, 3)


def test_a_scale_computed_from_a_shape_stays() -> None:
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 12)
    width = net.node("Gather", net.node("Shape", x), net.ints(2), axis=0)
    scale = net.node("Sqrt", net.node("Cast", width, to=TensorProto.DOUBLE))
    outcome = prune_exactly(net.build(net.linear(net.node("Div", x, scale), 12, 3)))
    assert outcome.sizes() == [(12, 8)]
    result = evaluate(outcome.pruned, random_feed(outcome.pruned, 2))
    assert result[scale] == pytest.approx(np.sqrt(12))


def test_a_free_size_read_at_runtime_keeps_what_it_is_computed_from() -> None:
    """batch * width cannot be restated as a constant: the width stays."""
    net = Net()
    x = net.linear(net.input("batch", 4), 4, 12)
    shape = net.node("Shape", x)
    count = net.node("ReduceProd", shape, keepdims=1)
    y = net.linear(net.node("Relu", x), 12, 6)
    scaled = net.node("Div", net.linear(y, 6, 2), net.node("Cast", count, to=TensorProto.DOUBLE))
    outcome = prune_exactly(net.build(scaled))
    assert outcome.sizes() == [(6, 4)]


def test_expand_to_the_batch() -> None:
    """A class token, repeated for each sample as exporters write it, and joined to the tokens."""
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 8)
    batch = net.node("Slice", net.node("Shape", x), net.ints(0), net.ints(1))
    width = net.node("Slice", net.node("Shape", x), net.ints(2), net.ints(3))
    target = net.node("Concat", batch, net.ints(1), width, axis=0)
    token = net.node("Expand", net.weight(1, 1, 8), target)
    x = net.node("Add", net.node("Concat", token, x, axis=1), net.weight(1, 6, 8))
    first = net.node("Gather", x, net.constant(np.array(0)), axis=1)
    outcome = prune_exactly(net.build(net.linear(first, 8, 3)))
    assert outcome.sizes() == [(8, 5)]


def test_embedding_lookup() -> None:
    net = Net()
    ids = net.input("batch", 4, name="ids", kind=TensorProto.INT64)
    table = net.weight(20, 9)
    x = net.node("Gather", table, ids, axis=0)
    outcome = prune_exactly(net.build(net.linear(net.linear(x, 9, 6), 6, 2)))
    assert outcome.sizes() == [(9, 6), (6, 4)]
    assert outcome.shape(table) == (20, 6)


def test_rotary_halves_are_tied() -> None:
    """x1, x2 -> -x2, x1: dimension j and j + h/2 go together."""
    net = Net()
    x = net.linear(net.input("batch", 5, 4), 4, 8)
    a, b = net.node("Split", x, outputs=2, axis=-1)
    turned = net.node("Concat", net.node("Neg", b), a, axis=-1)
    rotated = net.node("Add", net.node("Mul", x, net.weight(5, 8)), turned)
    outcome = prune_exactly(net.build(net.linear(rotated, 8, 3)))
    assert outcome.sizes() == [(4, 3)]


def test_resize_pad_tile_and_pools() -> None:
    net, x = image()
    x = net.conv(x, (3, 8))
    x = net.node("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1))
    x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Tile", x, net.ints(1, 2, 1, 1))
    x = net.conv(x, (16, 5))
    scales = net.constant(np.array([1, 1, 2, 2], dtype=np.float32))
    x = net.node("Resize", x, "", scales, mode="nearest")
    outcome = prune_exactly(net.build(net.head(x, 5)), batch=3)
    assert outcome.sizes() == [(8, 5), (5, 3)]


def test_resize_rewrites_the_stated_channels() -> None:
    net = Net()
    x = net.conv(net.input(2, 3, 6, 6), (3, 8))
    sizes = net.ints(2, 8, 12, 12)
    x = net.node("Resize", x, "", "", sizes, mode="nearest")
    outcome = prune_exactly(net.build(net.head(x, 8)))
    assert outcome.sizes() == [(8, 5)]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode: str) -> None:
    net, x = image()
    x = net.node("DepthToSpace", net.conv(x, (3, 20)), blocksize=2, mode=mode)
    x = net.node("SpaceToDepth", net.conv(x, (5, 6)), blocksize=2)
    outcome = prune_exactly(net.build(net.head(net.conv(x, (24, 4)), 4)))
    assert outcome.sizes() == [(5, 3), (6, 4), (4, 3)]
