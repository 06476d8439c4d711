"""prune-channels: heads of attention are turned without a change, and so that cuts cost little."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import Net

from graphopt import PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.ir import constant_array
from graphopt.progress import Quiet
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels
from graphopt_passes.prune_channels.heads import turn_heads
from graphopt_passes.prune_channels.run import analyse

WIDTH, HEADS, SIZE, TOKENS = 12, 2, 8, 5


def samples(model: ir.Model, count: int = 64, seed: int = 0) -> ArraySamples:
    specs = input_specs(model)
    random = np.random.default_rng(seed)
    feed = {
        spec.name: random.standard_normal((count, TOKENS, WIDTH)).astype(spec.dtype)
        for spec in specs
    }
    return ArraySamples("random", feed, specs)


def final(model: ir.Model, of: ArraySamples) -> np.ndarray:
    feed = {"x": np.concatenate([sample["x"] for sample in of])}
    return next(iter(Session(model).run(feed).values())).astype(np.float64)


def split(net: Net, x: str, perm: tuple[int, ...] = (0, 2, 1, 3)) -> str:
    shaped = net.node("Reshape", x, net.ints(0, TOKENS, HEADS, SIZE))
    return net.node("Transpose", shaped, perm=perm)


def low_rank(net: Net, x: str, rank: int = 3) -> str:
    """A layer with bias whose heads hold little in most directions, but all channels alike."""
    random = np.random.default_rng(len(net._weights))
    parts = [
        random.standard_normal((WIDTH, rank)) @ random.standard_normal((rank, SIZE))
        + 0.05 * random.standard_normal((WIDTH, SIZE))
        for _ in range(HEADS)
    ]
    weight = net.constant(np.concatenate(parts, axis=1) / WIDTH**0.5)
    product = net.node("MatMul", x, weight)
    return net.node("Add", product, net.weight(HEADS * SIZE))


def attention(variant: str = "", kind: int = TensorProto.FLOAT) -> ir.Model:
    net = Net(kind=kind)
    x = net.input("n", TOKENS, WIDTH)
    first = low_rank(net, x)
    query, value = split(net, first), split(net, low_rank(net, x))
    key = low_rank(net, x)
    if variant == "key is read twice":
        key_again = net.node("ReduceMean", net.node("Sigmoid", key), axes=[1, 2], keepdims=1)
    if variant == "query has a norm":
        query = net.node("Mul", query, net.positive(SIZE))
    turned = split(net, key, (0, 2, 3, 1))
    if variant == "scaled before":
        query, turned = (net.node("Mul", v, net.constant(0.5)) for v in (query, turned))
    if variant == "many nodes before":  # more than Python's stack has room for
        one = net.constant(1.0)
        for _ in range(1100):
            query = net.node("Mul", query, one)
    scores = net.node("MatMul", query, turned, name="scores")
    scores = net.node("Div", scores, net.constant(np.sqrt(SIZE)))
    weights = scores if variant == "no softmax" else net.node("Softmax", scores, axis=-1)
    mixed = net.node("MatMul", weights, value, name="mixed")
    flat = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = net.node("Reshape", flat, net.ints(0, TOKENS, HEADS * SIZE))
    if variant == "read through an activation":
        flat = net.node("Tanh", flat)
    out = net.linear(flat, HEADS * SIZE, 4, name="out")
    return net.build(net.node("Add", out, key_again) if "twice" in variant else out)


TURNED = {
    "": 2,
    "scaled before": 2,
    "many nodes before": 2,
    "no softmax": 2,
    "key is read twice": 1,
    "query has a norm": 1,
    "read through an activation": 1,
}


@pytest.mark.parametrize(("variant", "count"), TURNED.items())
def test_turning_changes_weights_and_nothing_else(variant: str, count: int) -> None:
    original = attention(variant)
    model = original.clone()
    data = samples(model)
    assert turn_heads(model, analyse(model, data), data, 64, Quiet()) == count
    wanted = final(original, samples(model, seed=1))
    np.testing.assert_allclose(
        final(model, samples(model, seed=1)), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max()
    )
    assert [n.op_type for n in model.graph] == [n.op_type for n in original.graph]


def test_a_second_turn_changes_nothing() -> None:
    model = attention()
    data = samples(model)
    turn_heads(model, analyse(model, data), data, 64, Quiet())
    once = {name: v.const_value.numpy().copy() for name, v in model.graph.initializers.items()}  # type: ignore[union-attr]
    turn_heads(model, analyse(model, data), data, 64, Quiet())
    for name, v in model.graph.initializers.items():
        found = v.const_value.numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(np.abs(found), np.abs(once[name]), rtol=0, atol=2e-2)


def test_the_product_is_in_the_first_channels() -> None:
    """What the first channels of Q and K give is the best of that rank (Eckart and Young)."""
    model = attention("no softmax")
    data = samples(model)
    turn_heads(model, analyse(model, data), data, 64, Quiet())
    from graphopt.runtime.tap import tapped

    node = model.graph.node("scores")
    names = [str(v.name) for v in node.inputs if v is not None]
    values = Session(tapped(model, names)).run({"x": np.concatenate([s["x"] for s in data])})
    query, key = (values[name].astype(np.float64) for name in names)
    for head in range(HEADS):
        q = query[:, head].reshape(-1, SIZE)
        k = np.swapaxes(key[:, head], 1, 2).reshape(-1, SIZE)
        shares = np.linalg.svd(q @ k.T, compute_uv=False)[:SIZE]
        mine = np.sqrt(np.square(q).sum(axis=0) * np.square(k).sum(axis=0))
        np.testing.assert_allclose(mine, shares, rtol=1e-2, atol=1e-3 * shares[0])


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_heads_that_use_few_directions_lose_channels_at_little_cost(kind: int) -> None:
    model = attention(kind=kind)
    data, other = samples(model), samples(model, seed=1)
    wanted = final(model, other)
    errors: dict[Any, float] = {}
    for way in ("none", "bias", "ls"):
        step = PruneChannels(ratio=0.5, align=1, compensate=way)  # type: ignore[arg-type]
        result = step.run(model, PassContext(calibration=data))
        assert result.modified
        difference = final(result.model, other) - wanted
        errors[way] = float(np.linalg.norm(difference) / np.linalg.norm(wanted))
    assert errors["bias"] < 0.3 * errors["none"]
    assert errors["ls"] < 0.06


def test_shared_and_rotated_keys_stay() -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.input("n", TOKENS, WIDTH)
    shared = net.weight(WIDTH, HEADS * SIZE)
    query, key = (net.node("MatMul", x, shared) for _ in range(2))
    scores = net.node("MatMul", split(net, query), split(net, key, (0, 2, 3, 1)))
    model = net.build(scores)
    before = {n: constant_array(v) for n, v in model.graph.initializers.items()}
    data = samples(model)
    assert turn_heads(model, analyse(model, data), data, 64, Quiet()) == 0
    for name, v in model.graph.initializers.items():
        assert np.array_equal(before[name], constant_array(v))  # type: ignore[arg-type]
