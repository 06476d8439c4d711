"""`equalize`: what it does to nets that are hard to quantize, and what it leaves alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hard_nets import add_outliers, imbalance
from quantize_nets import context, data, decibels, net, quantize, runtime

import graphopt
from graphopt.errors import GraphoptError
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.runtime.session import Session
from graphopt_passes.equalize import Equalize
from graphopt_passes.equalize.choice import LEAST_SHARE, smooth

FIXTURES = Path(__file__).parents[2] / "fixtures"
CALIBRATION = str(FIXTURES / "calib.npz")
PAIR = "h = Conv (x, w, b) r = Relu (h) y = Conv (r, v)"


def pair(spread: int = 0, dtype: type = np.float32) -> ir.Model:
    """Two convolutions; what one hands to the other is scaled by 2^-spread to 2^spread."""
    generator = np.random.default_rng(1)
    w, v = (generator.standard_normal(shape) * 0.3 for shape in ((16, 4, 3, 3), (8, 16, 1, 1)))
    b = generator.standard_normal(16) * 0.1
    factors = np.exp2(generator.integers(-spread, spread + 1, 16))
    w, b, v = w * factors[:, None, None, None], b * factors, v / factors[None, :, None, None]
    kind = "float" if dtype is np.float32 else "float16"
    arrays = {name: a.astype(dtype) for name, a in (("w", w), ("b", b), ("v", v))}
    return net(PAIR, f"{kind}[N, 4, 8, 8] x", f"{kind}[N, C, H, W] y", **arrays)


def equalized(model: ir.Model, count: int = 32, calibrated: bool = True) -> PassResult:
    feed = data(model, count)
    return Equalize().run(model, context(model, feed) if calibrated else PassContext())


def weight(model: ir.Model, name: str) -> np.ndarray[Any, Any]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_imbalance_goes_and_every_bit_stays(calibrated: bool, dtype: type) -> None:
    model = pair(4, dtype)
    result = equalized(model, calibrated=calibrated)
    assert result.modified
    assert result.rewrites == {"rescaled-group": 1}
    assert result.notes == ("rescaled 1 of 1 groups of channels for quantization",)
    feed = data(model, seed=5)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(result.model, feed)[0])
    peaks = np.abs(weight(result.model, "w")).max(axis=(1, 2, 3))
    before = np.abs(weight(model, "w")).max(axis=(1, 2, 3))
    assert before.max() / before.min() > 128
    assert peaks.max() / peaks.min() < 8
    again = equalized(result.model, calibrated=calibrated)
    assert not again.modified
    assert again.model is result.model


def test_the_model_that_is_given_stays() -> None:
    model = pair(4)
    before = weight(model, "w").copy()
    equalized(model)
    np.testing.assert_array_equal(weight(model, "w"), before)


def test_a_row_says_what_was_measured() -> None:
    (row,) = equalized(pair(4)).details["groups"]
    assert row["group"] == "h"
    assert row["read_by"] == ["y"]
    assert row["kept"]
    assert row["channels"] == 16
    assert row["how"].startswith("smooth ")
    assert row["factor_max"] / row["factor_min"] >= 128
    assert row["error_after"] < row["error_before"] / 10


def test_a_balanced_net_is_left_alone() -> None:
    model = pair(0)
    result = equalized(model)
    assert not result.modified
    assert result.model is model
    assert not result.details["groups"][0]["kept"]
    assert not equalized(model, calibrated=False).modified


def test_what_helps_on_the_fit_samples_only_is_not_kept() -> None:
    """Every fourth sample is held out; here one channel is a thousand times as strong in those."""
    model = net("h = Mul (x, e) y = Conv (h, v)", e=(1, 4, 1, 1), v=(8, 4, 1, 1))
    feed = data(model, 32)
    feed["x"][:, 0] *= 0.01
    feed["x"][3::4, 0] *= 1000
    (row,) = Equalize().run(model, context(model, feed)).details["groups"]
    assert not row["kept"]
    assert row["reason"].endswith("does not help on samples that were held out")
    assert row["error_after"] > row["error_before"] * 0.9


def test_nothing_to_rescale() -> None:
    model = net("y = Conv (x, w)", w=(8, 4, 3, 3))
    result = equalized(model)
    assert not result.modified
    assert result.notes == ()
    assert result.details == {"groups": []}


def test_a_channel_that_is_dead_or_not_read() -> None:
    model = pair(4)
    w, b, v = (weight(model, name).copy() for name in "wbv")
    w[0], b[0], v[:, 1] = 0, 0, 0
    for name, array in (("w", w), ("b", b), ("v", v)):
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    result = equalized(model)
    assert result.modified
    assert all(np.isfinite(weight(result.model, name)).all() for name in "wbv")
    feed = data(model, seed=5)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(result.model, feed)[0])


def test_bits_that_a_type_does_not_have_are_not_asked_for() -> None:
    """float16 ends at 2^-24: dividing such weights would lose them."""
    model = pair(4, np.float16)
    v = (weight(model, "v").astype(np.float64) * 2.0**-18).astype(np.float16)
    model.graph.initializers["v"].const_value = ir.Tensor(v, name="v")
    result = equalized(model)
    feed = data(model, seed=5)
    np.testing.assert_array_equal(runtime(model, feed)[0], runtime(result.model, feed)[0])


def test_what_it_refuses() -> None:
    model = pair(4)
    with pytest.raises(ValueError, match="at least 1"):
        Equalize(samples=0)
    feed = data(model, 16)
    feed["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(GraphoptError, match=r"'r': takes NaN or an infinite value"):
        Equalize().run(model, context(model, feed))


def test_smooth_is_the_formula() -> None:
    peaks, weights = np.array([4.0, 4, 16, 64]), np.array([1.0, 1, 1, 1])
    np.testing.assert_array_equal(smooth(peaks, weights, 1.0) * peaks, [1, 1, 1, 1])
    np.testing.assert_array_equal(smooth(peaks, weights, 0.5), [0.5, 0.5, 0.25, 0.125])
    np.testing.assert_array_equal(smooth(peaks, 1 / peaks, 0.5), 1 / peaks)
    # What carries next to nothing is taken to carry a little.
    found = smooth(np.array([1.0, 2.0**-20]), np.ones(2), 1.0)
    assert found[1] == 1 / LEAST_SHARE
    np.testing.assert_array_equal(smooth(np.zeros(3), np.ones(3), 1.0), np.ones(3))


def test_quantize_equalizes_first() -> None:
    model = pair(4)
    feed = data(model, 32)
    (expected,) = runtime(model, feed)
    found = {on: quantize(model, feed, equalize=on, method="minmax") for on in (True, False)}
    gain = [decibels(expected, runtime(found[on].model, feed)[0]) for on in (True, False)]
    assert gain[0] > gain[1] + 10
    assert "equalized" in found[True].details
    assert "equalized" not in found[False].details
    left = quantize(model, feed, exclude=("y",))
    assert "equalized" not in left.details  # nothing that is quantized reads what could be scaled


@cache
def evaluation() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(FIXTURES / "eval.npz") as file:
        return file["image"], file["labels"]


def logits(model: ir.Model) -> np.ndarray[Any, Any]:
    return Session(model, threads=1).run({"image": evaluation()[0]})["logits"]


HARD = {
    "mobilenet": (imbalance, 28),
    "resnet": (imbalance, 35),
    "vit": (add_outliers, 35),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_nets_quantize_as_well_as_the_easy_ones(name: str) -> None:
    """Without it they have 1, 3 and 15 dB."""
    make, least = HARD[name]
    model = make(graphopt.load(FIXTURES / f"{name}.onnx"))
    result = graphopt.optimize(
        model, "quantize{samples=128}", calibration=CALIBRATION, verify="off"
    )
    before, after = logits(model), logits(result.model)
    _, labels = evaluation()
    hits = [float((output.argmax(1) == labels).mean() * 100) for output in (before, after)]
    assert decibels(before, after) >= least
    assert hits[0] - hits[1] <= 0.5
