"""What is known of each channel, merged to the bit."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import model as parse
from observed import NET, samples, state

from graphopt.calibration import Channels, collect_channels
from graphopt.calibration.channels import CHANNEL_BINS

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
grids = hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(3)), elements=finite)


@given(grids, grids, grids)
def test_merge_is_associative_and_commutative_to_the_bit(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    x, y, z = (Channels.of(part, 1) for part in (a, b, c))
    assert state(x.merge(y)) == state(y.merge(x))
    assert state(x.merge(y).merge(z)) == state(x.merge(y.merge(z)))


@given(grids.filter(len), grids.filter(len))
def test_range_and_distribution_do_not_depend_on_how_values_are_cut_up(
    a: np.ndarray, b: np.ndarray
) -> None:
    values = np.concatenate([a, b])
    merged, whole = Channels.of(a, 1).merge(Channels.of(b, 1)), Channels.of(values, 1)
    for name in ("low", "high", "count", "zeros", "exponents", "counts"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name))
    assert (whole.low == values.min(axis=0)).all()
    assert (whole.high == values.max(axis=0)).all()
    assert (whole.largest == np.abs(values).max(axis=0)).all()


@given(st.lists(grids.filter(len), min_size=1, max_size=4))
def test_the_mean_is_rounded_once_from_the_sums(parts: list[np.ndarray]) -> None:
    merged = Channels.of(parts[0], 1)
    for part in parts[1:]:
        merged = merged.merge(Channels.of(part, 1))
    count = sum(map(len, parts))
    sums = [part.sum(axis=0, dtype=np.float64).tolist() for part in parts]
    for channel in range(3):
        exact = sum(Fraction(s[channel]) for s in sums) / count
        assert merged.mean[channel] == float(exact)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_axis_and_every_float_type(axis: int, dtype: type) -> None:
    values = (np.random.default_rng(0).integers(-8, 8, (2, 3, 4)) / 4).astype(dtype)
    found = Channels.of(values, axis)
    rows = np.moveaxis(values.astype(np.float64), axis, 0).reshape(values.shape[axis], -1)
    assert (found.low == rows.min(axis=1)).all()
    assert (found.high == rows.max(axis=1)).all()
    assert (found.mean == rows.mean(axis=1)).all()
    assert (found.zeros == (rows == 0).sum(axis=1)).all()
    assert (found.counts.sum(axis=1) + found.zeros == rows.shape[1]).all()
    assert found.count == rows.shape[1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100), percent=st.floats(0, 100))
def test_a_percentile_is_that_of_each_channel_to_a_bin(seed: int, percent: float) -> None:
    scale = np.array([1e-6, 1, 300, 0])
    values = (np.random.default_rng(seed).laplace(size=(400, 4)) * scale).astype(np.float32)
    found = Channels.of(values, 1)
    for channel, threshold in enumerate(found.percentile(percent)[:3]):
        magnitudes = np.abs(values[:, channel])
        width = 2.0 ** found.exponents[channel] / CHANNEL_BINS
        wanted = np.ceil(400 * (percent / 100))
        assert (magnitudes <= threshold).sum() >= wanted
        assert (magnitudes < threshold - width).sum() < max(wanted, 1)
    assert found.percentile(percent)[3] == 0


def test_large_tensors_are_counted_in_every_channel() -> None:
    values = np.random.default_rng(0).standard_normal((3, 50, 40, 40)).astype(np.float32)
    values *= np.arange(50, dtype=np.float32).reshape(50, 1, 1)
    found = Channels.of(values, 1, samples=3)
    alone = [Channels.of(values[i : i + 1], 1) for i in range(3)]
    merged = alone[0].merge(alone[1]).merge(alone[2])
    assert (found.counts == merged.counts).all()
    counted = found.counts.sum(axis=1) + found.zeros
    assert counted.min() > 0.9 * counted.max() > 500
    assert found.counts[0].sum() == 0
    median = found.percentile(50)[1:] / np.arange(1, 50)
    assert median == pytest.approx(np.full(49, 0.6745), rel=0.15)


def test_no_values_are_no_values() -> None:
    empty = Channels.of(np.zeros((0, 3), np.float32), 1)
    assert empty.largest.tolist() == empty.mean.tolist() == [0, 0, 0]
    assert empty.percentile(50).tolist() == [0, 0, 0]
    some = Channels.of(np.array([[1, 0, -2]], np.float32), 1)
    assert state(empty.merge(some)) == state(some)


def test_channels_of_two_numbers_do_not_merge() -> None:
    with pytest.raises(ValueError, match="3 channels in one place, 2 in another"):
        Channels.of(np.ones((1, 3)), 1).merge(Channels.of(np.ones((1, 2)), 1))


def test_collect_channels_over_samples() -> None:
    net = parse(NET)
    data = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    found = collect_channels(net, {"b": 1, "x": -1}, samples(net, data))
    expected = np.maximum(data * 2, 0)
    assert (found["b"].high == expected.max(axis=0)).all()
    assert found["b"].mean == pytest.approx(expected.mean(axis=0, dtype=np.float64), rel=1e-15)
    assert (found["x"].low == data.min(axis=0)).all()
    assert found["x"].count == 50
