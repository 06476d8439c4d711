"""`cast-precision`: what fp16 cannot hold, each on a small net, computed in real fp16.

Most peers give 0 dB or NaN on several of these nets.
"""

from __future__ import annotations

import numpy as np
import pytest
from casting import cast, noise, proto

WITH_DATA = pytest.mark.parametrize("calibrated", [True, False], ids=["samples", "structure"])

LAYER_NORM = """
    mean = ReduceMean <axes = [-1]> (x)
    centred = Sub (x, mean)
    squared = Pow (centred, two)
    variance = ReduceMean <axes = [-1]> (squared)
    shifted = Add (variance, eps)
    deviation = Sqrt (shifted)
    normal = Div (centred, deviation)
    scaled = Mul (normal, w)
    y = Add (scaled, b)
"""


@WITH_DATA
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_a_layer_norm_that_is_spelled_out(calibrated: bool, eps: float, scale: float) -> None:
    model = proto(LAYER_NORM, two=2, eps=eps, w=noise(8), b=noise(8, seed=1))
    feed = {"x": noise(2, 8, scale=scale)}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 50
    assert {"squared", "variance", "shifted"} <= found.left.keys()
    assert found.type_of("scaled") == "FLOAT16"


@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_the_epsilon_of_a_norm_keeps_a_division_by_0_away(eps: float) -> None:
    model = proto(LAYER_NORM, two=2, eps=eps, w=noise(8), b=noise(8, seed=1))
    found = cast(model)
    assert found.sqnr({"x": np.ones((2, 8), np.float32)}) > 50


@WITH_DATA
def test_an_l2_norm(calibrated: bool) -> None:
    body = """
        s = Mul (x, x)
        q = ReduceMean <axes = [-1]> (s)
        n = Sqrt (q)
        m = Max (n, eps)
        y = Div (x, m)
    """
    model, feed = proto(body, eps=1e-12), {"x": noise(2, 8, scale=300)}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 60
    flat = {"x": np.array([[0.0] * 8, [1.0] * 8], np.float32)}
    assert cast(model).sqnr(flat) > 60


@WITH_DATA
@pytest.mark.parametrize("size", [1e5, 1e-9])
def test_weights_that_fp16_cannot_hold(calibrated: bool, size: float) -> None:
    body = "h = MatMul (x, w) s = Mul (h, back) r = Relu (s) y = MatMul (r, v)"
    model = proto(body, w=noise(8, 8, scale=size), back=1 / size, v=noise(8, 8, seed=1))
    feed = {"x": noise(2, 8)}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 60
    assert found.left.keys() == {"h", "s"}
    assert found.type_of("w") == "FLOAT"
    assert found.type_of("v") == "FLOAT16"


@WITH_DATA
@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1"])
def test_a_sum_that_overflows(calibrated: bool, operator: str) -> None:
    axes = "ax" if operator == "ReduceSum" else ""
    attribute = "keepdims = 1" if axes else "axes = [-1], keepdims = 1"
    inputs = "x, ax" if axes else "x"
    body = f"s = {operator} <{attribute}> ({inputs}) y = Mul (s, small)"
    weights = {"ax": np.array([-1])} if axes else {}
    model = proto(body, "float[2, 512] x", "float[2, 1] y", small=1e-3, **weights)
    feed = {"x": np.abs(noise(2, 512, scale=300))}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 60
    assert "s" in found.left


def test_a_sum_that_fits_is_low() -> None:
    model = proto("s = ReduceMean <axes = [-1]> (x) y = Mul (s, x)")
    feed = {"x": noise(2, 8)}
    found = cast(model, feed)
    assert found.left == {}
    assert found.sqnr(feed) > 50


@WITH_DATA
def test_ids_above_2048_are_counted_with_in_fp32(calibrated: bool) -> None:
    body = """
        f = Cast <to = 1> (ids)
        angle = Mul (f, rate)
        s = Sin (angle)
        h = Mul (x, s)
        odd = Add (x, f)
        y = Add (h, odd)
    """
    inputs = "float[2, 8] x, int64[2, 8] ids"
    model = proto(body, inputs, rate=0.37)
    feed = {"x": noise(2, 8), "ids": np.random.default_rng(0).integers(4000, 5000, (2, 8))}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 60
    assert {"angle", "s", "odd"} <= found.left.keys()
    assert found.type_of("h") == "FLOAT16"


def test_a_range_of_floats() -> None:
    body = """
        n = Shape <start = 1> (x)
        f = Cast <to = 1> (n)
        end = Squeeze (f)
        position = Range (zero, end, one)
        angle = Mul (position, rate)
        c = Cos (angle)
        y = Mul (x, c)
    """
    model = proto(body, "float[2, n] x", "float[2, n] y", zero=0.0, one=1.0, rate=0.1)
    feed = {"x": noise(2, 3000)}
    for data in (feed, None):
        found = cast(model, data)
        assert found.sqnr(feed) > 60
        assert found.type_of("position") == found.type_of("angle") == "FLOAT"


@WITH_DATA
def test_sizes_are_computed_in_fp32(calibrated: bool) -> None:
    body = """
        n = Shape (x)
        f = Cast <to = 1> (n)
        m = Mul (f, factor)
        k = Cast <to = 7> (m)
        h = Relu (x)
        y = Expand (h, k)
    """
    factor = np.array([1.0, 3.0, 1.0], np.float32)
    model = proto(body, "float[1, 1, w] x", "float[a, b, c] y", factor=factor)
    feed = {"x": noise(1, 1, 3001)}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 60
    assert found.type_of("m") == "FLOAT"
    assert found.type_of("h") == "FLOAT16"


@pytest.mark.parametrize("masked", [-3.4028235e38, -1e9, -1e4, -np.inf])
@WITH_DATA
def test_a_mask_is_as_good_with_a_number_of_the_type(masked: float, calibrated: bool) -> None:
    body = "m = Where (keep, zero, low) s = Add (x, m) y = Softmax (s)"
    keep = np.array([[1] * 5 + [0] * 3, [0] * 2 + [1] * 6], bool)
    model = proto(body, zero=0.0, low=masked, keep=keep)
    feed = {"x": noise(2, 8)}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 55
    assert found.type_of("s") == "FLOAT16"
    assert not {"s", "y"} & found.left.keys()


@pytest.mark.parametrize("body", [
    "s = Where (keep, x, low) y = Softmax (s)",
    "s = Add (x, mask) y = Softmax (s)",
    "t = Add (x, mask) s = Add (t, mask) y = Softmax (s)",
    "i = Cast <to = 1> (ids) j = Sub (one, i) m = Mul (j, low) s = Add (x, m) y = Softmax (s)",
])  # fmt: skip
@WITH_DATA
def test_masks_in_all_forms(body: str, calibrated: bool) -> None:
    mask = np.where(np.arange(8) < 5, 0, -1e30).astype(np.float32)
    inputs = "float[2, 8] x, int64[2, 8] ids" if "ids" in body else "float[2, 8] x"
    weights = {"keep": mask == 0, "low": -3.4e38, "mask": mask, "one": 1.0}
    used = {name: array for name, array in weights.items() if name in body}
    model = proto(body, inputs, **used)
    feed = {"x": noise(2, 8)}
    if "ids" in body:
        feed["ids"] = np.array([[1] * 5 + [0] * 3, [0] * 2 + [1] * 6])
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 55
    assert found.type_of("s") == "FLOAT16"


@WITH_DATA
def test_a_large_constant_that_is_no_mask_stays(calibrated: bool) -> None:
    model = proto("s = Where (keep, x, low) y = Mul (s, tiny)",
                  keep=np.arange(8) < 5, low=-1e9, tiny=1e-8)  # fmt: skip
    feed = {"x": noise(2, 8)}
    found = cast(model, feed if calibrated else None)
    assert found.sqnr(feed) > 60
    assert "s" in found.left


def test_bounds_beyond_the_type_are_none() -> None:
    model = proto("c = Clip (x, least, most) d = Max (c, least) y = Mul (d, x)",
                  least=-3.4e38, most=3.4e38)  # fmt: skip
    found = cast(model)
    assert found.left == {}
    assert found.constant("most") == np.float16(65504)
    assert found.sqnr({"x": noise(2, 8)}) > 60


@pytest.mark.parametrize("operator", ["Exp", "Softplus", "Cosh"])
def test_exponentials(operator: str) -> None:
    model = proto(f"e = {operator} (x) y = Log (e)")
    feed = {"x": np.array([[1, 2, 3, 4, 5, 6, 7, 12.5]] * 2, np.float32)}
    for found in (cast(model), cast(model, feed)):
        assert "e" in found.left
        assert found.sqnr(feed) > 60


def test_an_exponential_that_was_measured_small_is_low() -> None:
    feed = {"x": noise(2, 8)}
    found = cast(proto("e = Exp (x) y = Mul (e, x)"), feed)
    assert found.left == {}
    assert found.sqnr(feed) > 55


def test_a_measured_overflow() -> None:
    model = proto("a = Mul (x, x) b = Mul (a, x) c = Tanh (b) y = Mul (c, x)")
    feed = {"x": noise(2, 8, scale=60)}
    found = cast(model, feed)
    assert "up to" in found.left["b"]
    assert "up to" in found.left["c"]
    assert found.type_of("y_inner") == "FLOAT16"
    assert found.sqnr(feed) > 55
