"""prune-channels follows the arithmetic that exporters write around shapes, and free sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import BARE, Net, chain, evaluate, image, noise, prune_exactly, random_feed, weight

from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels, rules_layout, run, selfcheck
from graphopt_passes.prune_channels.sweep import Op


def test_padding_to_a_multiple_as_exporters_write_it() -> None:
    """Amounts by Mod of a size, turned round in pairs: Reshape, Slice backwards, Transpose."""
    net, x = image()
    x = net.conv(x, (3, 8))
    height = net.node("Gather", net.node("Shape", x), net.ints(2), axis=0)
    missing = net.node("Mod", net.node("Sub", net.ints(4), height), net.ints(4))
    few = net.node("Concat", net.ints(0), missing, net.ints(0), missing, axis=0)
    amounts = net.node("Concat", few, net.ints(0, 0, 0, 0), axis=0)
    pairs = net.node("Reshape", amounts, net.ints(-1, 2))
    turned = net.node(
        "Slice", pairs, net.ints(-1), net.ints(np.iinfo(np.int64).min), net.ints(0), net.ints(-1)
    )
    flat = net.node("Reshape", net.node("Transpose", turned, perm=[1, 0]), net.ints(-1))
    y = net.node("Pad", x, net.node("Cast", flat, to=TensorProto.INT64))
    outcome = prune_exactly(net.build(net.head(net.conv(y, (8, 5)), 5), check=False))
    assert outcome.sizes() == [(8, 5), (5, 3)]
    result = evaluate(outcome.pruned, random_feed(outcome.pruned, 2))
    assert result[y].shape == (2, 5, 8, 8)


def decoder() -> ir.Model:
    """Positions by Range, heads, and a Gemm over all tokens at once, as GPT-2 is exported."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.linear(net.input("batch", "length", 4), 4, 12, name="first")
    batch, length = (
        net.node("Slice", net.node("Shape", x), net.ints(axis), net.ints(axis + 1))
        for axis in (0, 1)
    )
    last = net.node("Squeeze", length, net.ints(0))
    steps = net.node("Range", net.constant(np.array(0)), last, net.constant(np.array(1)))
    table = net.node("Gather", net.weight(64, 12), steps, axis=0)
    x = net.node("Add", x, net.node("Unsqueeze", table, net.ints(0)))
    y = net.linear(x, 12, 24, name="heads")
    split = net.node("Concat", batch, length, net.ints(3), net.ints(8), axis=0)
    y = net.node("Relu", net.node("Reshape", y, split))
    y = net.node("Reshape", y, net.node("Concat", batch, length, net.ints(-1), axis=0))
    width = net.node("Slice", net.node("Shape", y), net.ints(-1), net.ints(9))
    y = net.node("Reshape", y, net.node("Concat", net.ints(-1), width, axis=0))
    y = net.node("Gemm", y, net.weight(24, 2, name="last"), net.weight(2))
    return net.build(net.node("Reshape", y, net.node("Concat", batch, length, net.ints(2), axis=0)))


def test_free_lengths_are_followed_by_name() -> None:
    model = decoder()
    x = np.random.default_rng(0).standard_normal((8, 10, 4)).astype(np.float32)
    context = PassContext(calibration=ArraySamples("noise", {"x": x}, input_specs(model)))
    result = PruneChannels(ratio=0.5, align=1, **BARE).run(model, context)
    assert weight(result.model, "last").shape == (12, 2)
    for batch, length in ((1, 3), (4, 10), (3, 64)):
        outputs = Session(result.model).run({"x": np.ones((batch, length, 4), np.float32)})
        assert next(iter(outputs.values())).shape == (batch, length, 2)


def test_a_batch_that_is_written_as_minus_one() -> None:
    """Paddle does so."""
    proto = ir.to_proto(chain())
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    result = PruneChannels(ratio=0.5, align=1, **BARE).run(ir.from_proto(proto), PassContext())
    assert weight(result.model, "second.weight").shape == (4, 5, 3, 3)
    for batch in (1, 5):
        outputs = Session(result.model).run({"x": np.ones((batch, 3, 6, 6), np.float32)})
        assert next(iter(outputs.values())).shape == (batch, 3)


def test_what_rounding_blurs_is_decided_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selfcheck.TOLERANCE, ir.DataType.FLOAT, -1.0)
    net = Net(kind=TensorProto.FLOAT)
    x = net.linear(net.input("batch", 4), 4, 12)
    x = net.node("LayerNormalization", x, net.weight(12), net.weight(12))
    x = net.node("ReduceMean", net.linear(x, 12, 9), axes=[1])
    result = PruneChannels(ratio=0.3, align=1, **BARE).run(net.build(x), PassContext())
    assert result.details["self_check"]["worst"] <= 1e-11
    assert result.rewrites["channels cut"] == 3 + 2


def test_a_wrong_cut_is_wrong_in_float64_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Transpose that is said to keep the order of axes of equal length."""

    def wrong(op: Op) -> None:
        op.emit(op.labels(0))

    assert rules_layout.RULES["Transpose"] is not wrong
    monkeypatch.setitem(run.RULES, "Transpose", wrong)
    net = Net(kind=TensorProto.FLOAT)
    x = net.linear(net.input("batch", 6, 6), 6, 6)
    x = net.node("Transpose", net.node("Relu", x), perm=[0, 2, 1])
    model = net.build(net.linear(x, 6, 3))
    onnx.checker.check_model(ir.to_proto(model))
    with pytest.raises(GraphoptError, match="internal inconsistency"):
        PruneChannels(ratio=0.5, align=1).run(model, noise(model))
