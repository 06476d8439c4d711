"""Histograms that merge to the bit, however the values were cut up."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed import arrays, floats32, state

from graphopt.calibration import Histogram
from graphopt.calibration.histogram import BINS


@given(arrays, arrays)
def test_merge_is_commutative_to_the_bit(a: np.ndarray, b: np.ndarray) -> None:
    one, other = Histogram.of(a), Histogram.of(b)
    assert state(one.merge(other)) == state(other.merge(one))


@given(arrays, arrays, arrays)
def test_merge_is_associative_to_the_bit(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    x, y, z = Histogram.of(a), Histogram.of(b), Histogram.of(c)
    assert state(x.merge(y).merge(z)) == state(x.merge(y.merge(z)))


@given(floats32, st.lists(st.integers(0, 40), max_size=4))
def test_how_the_values_are_cut_up_does_not_matter(values: np.ndarray, cuts: list[int]) -> None:
    parts = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    merged = Histogram.merge_all(Histogram.of(part) for part in parts)
    assert state(merged) == state(Histogram.of(values))
    assert state(Histogram.of(values[::-1])) == state(Histogram.of(values))


@given(floats32)
def test_a_histogram_counts_every_value_and_knows_its_range(values: np.ndarray) -> None:
    histogram = Histogram.of(values)
    assert histogram.size == values.size
    assert histogram.zeros == np.count_nonzero(values == 0)
    if values.size:
        assert (histogram.low, histogram.high) == (values.min(), values.max())
        assert histogram.largest == np.abs(values).max()
    present = values[values != 0].astype(np.float64)
    if present.size:
        assert 0.5 <= histogram.largest / 2.0**histogram.exponent < 1
    edges = np.ldexp(np.arange(BINS + 1) / BINS, histogram.exponent)
    for row, part in enumerate((-present[present < 0], present[present > 0])):
        expected = np.bincount(np.searchsorted(edges, part, "right") - 1, minlength=BINS)
        assert (histogram.counts[row] == expected).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_float_type_counts_alike(dtype: type) -> None:
    values = np.array([[-1.5, 0.0], [0.25, 3.0]])
    assert state(Histogram.of(values.astype(dtype))) == state(Histogram.of(values))


def test_negative_zero_is_zero_whichever_comes_first() -> None:
    one, other = Histogram.of(np.array([-0.0, 0.0])), Histogram.of(np.array([0.0, -0.0]))
    assert state(one) == state(other)
    assert one.zeros == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"NaN|infinite"):
        Histogram.of(np.array([1.0, bad, 2.0], np.float32))
