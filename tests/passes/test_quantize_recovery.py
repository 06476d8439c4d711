"""quantize: accuracy won back after quantization, and kept only where it is real."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import PLAIN, constant, context, decibels, net, runtime

import graphopt
from graphopt.data.feeds import input_specs
from graphopt.data.parts import split
from graphopt.data.samples import open_samples
from graphopt.ir import check
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.reconstruction import sides
from graphopt.runtime.tap import tapped
from graphopt_passes.quantize import Quantize
from graphopt_passes.quantize.recovery import ranges

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECOVER = importlib.import_module("graphopt_passes.quantize.recovery.recover")
ALL = {"canonicalize": False, "equalize": False, "islands": True}
Feed = dict[str, np.ndarray]


def images(count: int, seed: int = 0, channels: int = 4) -> Feed:
    """Correlated over channels and space, as images are, and not centred."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((count, channels, 9, 9))
    x[:, 1:] += 2 * x[:, :1]
    x = x[..., 1:, 1:] + x[..., :-1, 1:] + x[..., 1:, :-1] + 0.5
    return {"x": x.astype(np.float32)}


def run(model: ir.Model, feed: Feed, target: str = "generic", **options: Any) -> PassResult:
    result = Quantize(**{**ALL, **options}).run(model, context(model, feed, target))
    check(result.model)
    return result


def rows(result: PassResult, node: str) -> dict[str, Any]:
    return next(row for row in result.details["recovered"] if row["node"] == node)


NETS = {
    "conv": ("y = Conv <pads = [1,1,1,1]> (x, w, b)", {"w": (6, 4, 3, 3), "b": (6,)}),
    "no bias": ("y = Conv (x, w)", {"w": (6, 4, 3, 3)}),
    "groups": ("y = Conv <group = 2, strides = [2,1]> (x, w)", {"w": (6, 2, 3, 3)}),
    "depthwise": ("y = Conv <group = 4> (x, w, b)", {"w": (4, 1, 3, 3), "b": (4,)}),
    "gemm": (
        "f = Flatten (x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, w, b)",
        {"w": (5, 256), "b": (5,)},
    ),
    "matmul": ("m = MatMul (x, w) y = Add (m, b)", {"w": (8, 5), "b": (5,)}),
    "no add": ("y = MatMul (x, w)", {"w": (8, 5)}),
}


@pytest.mark.parametrize("name", NETS)
def test_errors_fall_on_fresh_data_too(name: str) -> None:
    body, weights = NETS[name]
    outputs = "float[N, F] y" if name == "gemm" else "float[N, A, B, C] y"
    model = net(body, outputs=outputs, **weights)
    feed, fresh = images(64), images(64, seed=1)
    plain, found = (run(model, feed, **options) for options in (PLAIN, {}))
    (wanted,) = runtime(model, fresh)
    before, after = (decibels(wanted, *runtime(r.model, fresh)) for r in (plain, found))
    assert after > before + (0.2 if name in ("conv", "no bias", "groups") else -0.02)
    layer = "m" if name == "matmul" else "y"
    row = rows(found, layer)
    assert row["error_after"] < row["error_before"] or not row["kept"]
    assert ("bias" in row["kept"]) <= (name != "no add")
    assert any(note.startswith("recovery: ") for note in found.notes)


def held_out(model: ir.Model, feed: Feed) -> Feed:
    samples = context(model, feed).calibration
    assert samples is not None
    parts = split(samples)
    assert parts is not None
    return {"x": np.concatenate([sample["x"] for sample in parts[1]])}


@pytest.mark.parametrize("options", [{}, {"tune_ranges": False}, {"round_weights": False}])
def test_the_errors_are_those_of_the_model_that_is_written(options: dict[str, bool]) -> None:
    body = "a = Conv (x, v, c) r = Relu (a) y = Conv <group = 2> (r, w, b)"
    model = net(body, v=(6, 4, 3, 3), c=(6,), w=(4, 3, 1, 1), b=(4,))
    feed = images(40)
    result = run(model, feed, **options)
    judged = held_out(model, feed)
    for name in ("a", "y"):
        (wanted,), (got,) = (runtime(tapped(m, [name]), judged) for m in (model, result.model))
        bias = constant(model, {"a": "c", "y": "b"}[name])[:, None, None]
        error = np.sqrt(np.square(wanted - got).sum() / np.square(wanted - bias).sum())
        assert rows(result, name)["error_after"] == pytest.approx(error, rel=1e-4)


def shifted(count: int) -> Feed:
    """What is held out is the opposite of all the others: nothing that is learnt there holds."""
    feed = images(count)
    feed["x"] = np.abs(feed["x"])
    feed["x"][3::4] *= -1
    return feed


def test_a_step_that_does_not_help_on_what_is_held_out_is_not_kept() -> None:
    model = net("y = Conv (x, w, b)", w=(6, 4, 1, 1), b=(6,))
    result = run(model, shifted(32), round_weights=False, tune_ranges=False)
    plain = run(model, shifted(32), **PLAIN)
    (row,) = result.details["recovered"]
    assert row["kept"] == []
    assert row["error_after"] == row["error_before"]
    assert "recovery: nothing is better than what there was" in result.notes
    assert ir.to_proto(result.model) == ir.to_proto(plain.model)


def test_all_is_dropped_if_the_outputs_get_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net("y = Conv (x, w, b)", w=(6, 4, 3, 3), b=(6,))
    noise = iter([0.01, 0.02])
    monkeypatch.setattr(RECOVER, "_noise", lambda *_: next(noise))
    result, plain = run(model, images(32)), run(model, images(32), **PLAIN)
    assert any("20.0 -> 17.0 dB" in note and "left out" in note for note in result.notes)
    assert ir.to_proto(result.model) == ir.to_proto(plain.model)
    assert all(row["kept"] == [] for row in result.details["recovered"])


def test_the_report_speaks_of_the_weights_that_are_stored() -> None:
    model = net("y = Conv (x, w, b)", w=(6, 4, 3, 3), b=(6,))
    result = run(model, images(32))
    (row,), (tensor,) = result.details["quantized"], result.details["tensors"]
    assert row["weight_scale_max"] == constant(result.model, "w_scale").max()
    assert tensor["scale"] == constant(result.model, "x_scale")
    assert np.abs(constant(result.model, "w_quantized")).max() <= 127


def test_a_range_is_chosen_by_the_layers_behind() -> None:
    """One channel has large values of which the layers behind make nothing."""
    model = net("r = Relu (x) y = Conv (r, w)", w=(6, 4, 1, 1))
    weight = constant(model, "w").copy()
    weight[:, 0] = 0
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    feed = images(32)
    feed["x"][:, 0] *= 4
    result = run(model, feed, method="minmax", round_weights=False, correct_bias=False)
    row = rows(result, "r_QuantizeLinear")
    assert row["kept"] == ["range"]
    assert row["factor"] < 1
    (wanted,) = runtime(model, feed)
    plain = run(model, feed, **{**PLAIN, "method": "minmax"})
    before, after = (decibels(wanted, *runtime(r.model, feed)) for r in (plain, result))
    assert after > before + 1.5


@pytest.mark.parametrize(("blocks", "expected"), [(3, {"s3"}), (20, {"c4", "s4"})])
def test_skips_are_no_shorter_way_to_the_layers_behind(blocks: int, expected: set[str]) -> None:
    """Four layers behind block 0 is the sum of block 4, not all sums up to the end."""
    body = "s0 = Conv (x, w)" + "".join(
        f" c{i} = Conv (s{i - 1}, w) s{i} = Add (c{i}, s{i - 1})" for i in range(1, blocks + 1)
    )
    model = net(body.replace(f"s{blocks} =", "y ="), w=(4, 4, 1, 1))
    for node in model.graph:
        node.outputs[0].name = str(node.outputs[0].name).replace("y", f"s{blocks}")
    quantized = run(model, images(4), **PLAIN).model
    begin = next(n for n in quantized.graph if n.name == "s0_QuantizeLinear")
    pair = ranges.Pair.of(begin)
    assert pair is not None
    layers = {node for node in quantized.graph if node.op_type == "Conv"}
    order = {node: place for place, node in enumerate(quantized.graph)}
    known = {str(value.name) for node in model.graph for value in node.outputs}
    assert set(ranges.values_ahead(pair, layers, known, order)) == expected


def test_where_a_block_has_two_layers_the_way_through_both_counts() -> None:
    """The sum of block 2 is five layers behind x, though its skip is three: there one stops."""
    body = "s0 = Conv (x, w)" + "".join(
        f" c{i} = Conv (s{i - 1}, w) d{i} = Conv (c{i}, w) s{i} = Add (d{i}, s{i - 1})"
        for i in range(1, 9)
    )
    model = net(body.replace("s8 =", "y ="), w=(4, 4, 1, 1))
    quantized = run(model, images(4), **PLAIN).model
    layers = {node for node in quantized.graph if node.op_type == "Conv"}
    order = {node: place for place, node in enumerate(quantized.graph)}
    known = {str(value.name) for node in model.graph for value in node.outputs}
    expected = {"x": {"c2", "s2"}, "s0": {"d2", "s2"}, "c1": {"c3", "s3"}, "c7": {"y"}}
    for name, behind in expected.items():
        pairs = (ranges.Pair.of(n) for n in quantized.graph if n.inputs[0].name == name)
        pair = next(pair for pair in pairs if pair is not None)
        assert set(ranges.values_ahead(pair, layers, known, order)) == behind, name


def test_biases_in_int32_follow_the_scales() -> None:
    body = "a = Conv (x, v, c) r = Relu (a) d = Conv (r, w, b) e = Relu (d) y = Conv (e, u)"
    model = net(body, v=(6, 4, 3, 3), c=(6,), w=(5, 6, 3, 3), b=(5,), u=(3, 5, 1, 1))
    feed = images(48)
    result = run(model, feed, "onnxruntime-cpu")
    changed = 0
    for node in result.model.graph:
        if node.name in ("a", "d"):
            data, weight, bias = (v.producer() for v in node.inputs if v is not None)
            assert data is not None
            assert weight is not None
            assert bias is not None
            scales = [
                constant(result.model, str(n.inputs[1].name))  # type: ignore[union-attr]
                for n in (data, weight, bias)
            ]
            np.testing.assert_array_equal(scales[2], scales[0] * scales[1])
            changed += bool(rows(result, str(node.name))["kept"])
    assert changed
    (wanted,) = runtime(model, images(32, seed=1))
    plain = run(model, feed, "onnxruntime-cpu", **PLAIN)
    before, after = (
        decibels(wanted, *runtime(r.model, images(32, seed=1))) for r in (plain, result)
    )
    assert after > before


def test_too_few_or_random_samples_change_nothing() -> None:
    model = net("y = Conv (x, w, b)", w=(6, 4, 3, 3), b=(6,))
    result = run(model, images(7))
    assert "no recovery of accuracy: too few samples" in result.notes
    plain = run(model, images(7), **PLAIN)
    assert ir.to_proto(result.model) == ir.to_proto(plain.model)
    noise = PassContext(calibration=open_samples("random{n=16}", input_specs(model)))
    result = Quantize(**ALL).run(model, noise)
    assert any("random samples" in note for note in result.notes)


def test_a_shared_weight_stays_and_the_reason_is_told() -> None:
    body = "a = Conv (x, w) r = Relu (a) y = Conv (r, w)"
    result = run(net(body, w=(4, 4, 1, 1)), images(16))
    assert rows(result, "a")["reason"] == "its weight is shared with another node"


def test_too_many_inputs_get_their_bias_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sides, RECOVER):
        monkeypatch.setattr(module, "MAX_INPUTS", 8)
    model = net("y = Conv (x, w, b)", w=(6, 4, 3, 3), b=(6,))
    result, plain = run(model, images(32)), run(model, images(32), **PLAIN)
    row = rows(result, "y")
    assert set(row["kept"]) <= {"bias"}
    assert row["reason"].startswith("more than 8 inputs")
    stored = [constant(r.model, "w_quantized") for r in (result, plain)]
    np.testing.assert_array_equal(*stored)


def test_the_same_samples_give_the_same_bytes() -> None:
    model = net("a = Conv (x, v) y = Conv (a, w)", v=(6, 4, 3, 3), w=(5, 6, 1, 1))
    protos = [ir.to_proto(run(model, images(24)).model) for _ in range(2)]
    assert protos[0].SerializeToString() == protos[1].SerializeToString()


def test_little_memory_changes_the_way_and_not_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "HELD_BYTES", 6 * 40_000)  # for about a dozen samples
    model = net("a = Conv (x, v) y = Conv (a, w)", v=(32, 4, 3, 3), w=(5, 32, 1, 1))
    result = run(model, images(64))
    assert any(note.startswith("recovery: ") for note in result.notes)


def test_a_trained_net_gains() -> None:
    passes = "quantize{samples=64%s}"
    off = ",tune_ranges=false,round_weights=false,correct_bias=false"
    model = graphopt.optimize(FIXTURES / "resnet.onnx", "lossless", verify="off").model
    with np.load(FIXTURES / "eval.npz") as file:
        feed = {"image": file["image"][:100]}
    (wanted,) = runtime(model, feed)
    found = []
    for more in (off, ""):
        result = graphopt.optimize(
            model, passes % more, calibration=str(FIXTURES / "calib.npz"), verify="off"
        )
        found.append(decibels(wanted, *runtime(result.model, feed)))
    assert found[1] > found[0] + 1
