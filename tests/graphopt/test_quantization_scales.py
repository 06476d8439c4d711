"""Scales and zero points: what they cover, how they are stored, and the search for better ones."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.quantization import (
    DEAD_SCALE,
    FORMATS,
    affine_parameters,
    dequantize,
    fake_quantize,
    mse_parameters,
    parameter_shape,
    quantize,
    ranges,
    stored_scale,
    symmetric_scale,
)
from graphopt.quantization.formats import Format

Array = np.ndarray[Any, Any]
FLOATS = [np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16)]
EACH_FLOAT = pytest.mark.parametrize("dtype", FLOATS, ids=str)
SIGNED = pytest.mark.parametrize("name", ["int8", "int16", "int4", "fp8"])
LAYOUTS = [(None, None), (0, None), (-1, None), (1, 4), (1, 32), (0, 3), (-2, 7)]
EACH_LAYOUT = pytest.mark.parametrize(("axis", "block"), LAYOUTS)


def weight(shape: tuple[int, ...] = (12, 40), seed: int = 0) -> Array:
    """Heavy-tailed, as weights are, with channels of different sizes and a dead one."""
    rng = np.random.default_rng(seed)
    w = rng.standard_t(3, shape) * np.exp2(rng.uniform(-6, 2, (shape[0], 1)))
    w[0] = 0
    return w.astype(np.float32)


@EACH_FLOAT
def test_a_stored_scale_is_positive(dtype: np.dtype[Any]) -> None:
    stored = stored_scale(np.array([0.0, 1e-60, 1e-7, 0.1, 3.0]), dtype)
    assert stored.dtype == dtype
    assert (stored.astype(np.float64) > 0).all()
    assert float(stored[0]) == DEAD_SCALE
    assert float(stored[3]) == float(np.float64(0.1).astype(dtype))
    if dtype != np.float16:  # no subnormal, which hardware may flush to zero
        assert float(stored[1]) == float(ml_dtypes.finfo(dtype).tiny)
    assert stored_scale(2.0, dtype).shape == ()


@EACH_LAYOUT
def test_ranges_are_those_of_each_part(axis: int | None, block: int | None) -> None:
    w = weight()
    low, high = ranges(w, axis, block)
    assert low.shape == high.shape == parameter_shape(w.shape, axis, block)
    for index in np.ndindex(low.shape):
        part = w
        if axis is not None:
            size = block or 1
            place = index[0] if block is None else index[axis]
            part = np.take(w, range(place * size, min((place + 1) * size, w.shape[axis])), axis)
            if block is not None:
                other = (axis + 1) % 2
                part = np.take(part, [index[other]], other)
        assert (low[index], high[index]) == (part.min(), part.max())


def test_ranges_of_what_is_empty_or_not_finite() -> None:
    assert [r.tolist() for r in ranges(np.zeros((0, 3), np.float32))] == [0, 0]
    assert [r.tolist() for r in ranges(np.zeros((2, 0), np.float32), 0)] == [[0, 0]] * 2
    assert ranges(np.zeros((0, 3), np.float32), 1, 2)[0].shape == (0, 2)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="NaN or an infinite value"):
            ranges(np.array([[1, bad]], np.float32), 1)


@SIGNED
@EACH_LAYOUT
def test_a_symmetric_scale_clips_nothing(name: str, axis: int | None, block: int | None) -> None:
    format, w = FORMATS[name], weight()
    low, high = ranges(w, axis, block)
    scale = symmetric_scale(np.maximum(-low, high), format, np.float32)
    back = fake_quantize(w, scale, None, format, axis=axis, block_size=block)
    step = np.broadcast_to(np.max(scale), w.shape)
    if not format.is_float:
        assert (np.abs(back - w) <= step * 0.50001).all()
    q = quantize(w, scale, None, format, axis=axis, block_size=block).astype(np.float32)
    assert q.max() == format.greatest or q.min() == -format.greatest


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(-1e6, 1e6, width=32),
    high=st.floats(-1e6, 1e6, width=32),
    name=st.sampled_from(["int8", "uint8", "int16", "uint16", "int4", "uint4"]),
    dtype=st.sampled_from(FLOATS[:1] + FLOATS[2:]),
)
def test_affine_parameters_hold_zero_exactly(
    low: float, high: float, name: str, dtype: np.dtype[Any]
) -> None:
    format = FORMATS[name]
    low, high = min(low, high), max(low, high)
    scale, zero = affine_parameters(low, high, format, dtype)
    assert scale.dtype == dtype
    assert zero.dtype == format.dtype
    assert scale > 0
    zeros = np.zeros(1, dtype)
    assert fake_quantize(zeros, scale, zero, format)[0] == 0
    if dtype == np.float32:
        ends = np.array([min(low, 0), max(high, 0)], np.float32)
        back = fake_quantize(ends, scale, zero, format)
        # Half a step by rounding, and half by the shift of the range.
        assert (np.abs(back - ends) <= 1.001 * scale).all()


def test_affine_parameters_use_the_whole_range_where_they_can() -> None:
    scale, zero = affine_parameters(-1.0, 2.0, FORMATS["uint8"], np.float32)
    assert zero == 85
    assert scale == np.float32(3 / 255)
    with pytest.raises(ValueError, match="fp8 has no zero point"):
        affine_parameters(-1.0, 2.0, FORMATS["fp8"], np.float32)


def squared_error(
    x: Array, parameters: tuple[Array, Array], format: Format, h: Array | float = 1.0, **layout: Any
) -> Array:
    """By scale, in float64, with the limits that weights keep to."""
    limits = format.symmetric_limits if format.is_signed else None
    scale, zero = parameters
    back = fake_quantize(
        x.astype(np.float32),
        scale,
        zero,
        format,
        axis=layout["axis"],
        block_size=layout["block_size"],
        limits=limits,
        precision=np.float32,
    )
    off = h * (back.astype(np.float64) - x.astype(np.float64)) ** 2
    axis, block = layout["axis"], layout["block_size"]
    if axis is None:
        return np.asarray(off.sum())
    if block is None:
        return np.asarray(off.sum(axis=tuple(i for i in range(x.ndim) if i != axis % x.ndim)))
    return np.add.reduceat(off, np.arange(0, x.shape[axis], block), axis=axis)


@SIGNED
@EACH_LAYOUT
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
def test_the_search_is_never_worse_than_the_largest_magnitude(
    name: str, axis: int | None, block: int | None, weighted: bool, dtype: np.dtype[Any]
) -> None:
    format, w = FORMATS[name], weight().astype(dtype)
    layout = {"axis": axis, "block_size": block}
    h = np.random.default_rng(1).uniform(0, 2, (1, w.shape[1])) if weighted else 1.0
    low, high = ranges(w, axis, block)
    plain = symmetric_scale(np.maximum(-low, high), format, dtype)
    found = mse_parameters(w, format, **layout, importance=h if weighted else None)
    assert found[0].dtype == dtype
    assert found[0].shape == plain.shape
    assert not found[1].astype(int).any()
    # The products in float32 as the search computes them: what float16 then drops is not its doing.
    wide = (found[0].astype(np.float32), found[1])
    before = squared_error(w, (plain.astype(np.float32), found[1]), format, h, **layout)
    after = squared_error(w, wide, format, h, **layout)
    assert (after <= before * (1 + 1e-6)).all()
    if name == "int4":
        assert after.sum() < before.sum()


def test_the_search_finds_what_trying_every_scale_finds() -> None:
    """Within 1% of the least error on a grid of 4000 scales for each channel."""
    format, w = FORMATS["int4"], weight((6, 300))
    layout = {"axis": 0, "block_size": None}
    found = squared_error(w, mse_parameters(w, format, **layout), format, **layout)
    largest = np.abs(w).max(1)
    least = np.full(6, np.inf)
    for factor in np.linspace(0.02, 1.1, 4000):
        scale = symmetric_scale(factor * largest, format, np.float32)
        trial = squared_error(w, (scale, np.zeros(6, format.dtype)), format, **layout)
        least = np.minimum(least, trial)
    assert (found[1:] <= 1.01 * least[1:]).all()
    assert found[0] == 0


@pytest.mark.parametrize("name", ["uint4", "uint8"])
def test_the_search_with_zero_points(name: str) -> None:
    format, w = FORMATS[name], weight() + np.float32(0.1)
    layout = {"axis": 0, "block_size": None}
    plain = affine_parameters(*ranges(w, 0), format, np.float32)
    found = mse_parameters(w, format, **layout, symmetric=False)
    before, after = (squared_error(w, p, format, **layout) for p in (plain, found))
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < before.sum()


def test_the_search_takes_large_tensors_in_parts() -> None:
    w = weight((64, 3000))
    format = FORMATS["int4"]
    together, _ = mse_parameters(w, format, axis=0)
    for row in (0, 13, 63):
        alone, _ = mse_parameters(w[row : row + 1], format, axis=0)
        assert alone[0] == together[row]


def test_the_search_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="NaN"):
        mse_parameters(np.array([1, np.nan], np.float32), FORMATS["int8"])


def test_what_is_empty_has_a_scale_too() -> None:
    scale, zero = mse_parameters(np.zeros((0, 4), np.float32), FORMATS["int8"], axis=1)
    assert scale.tolist() == [DEAD_SCALE] * 4
    empty = np.zeros((0, 4), np.int8)
    assert dequantize(empty, scale, zero, FORMATS["int8"], axis=1).shape == (0, 4)
