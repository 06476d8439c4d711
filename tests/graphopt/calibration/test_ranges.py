"""The ranges chosen from histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observed import floats32

from graphopt.calibration import (
    METHODS,
    Histogram,
    Range,
    choose_range,
    expected_squared_error,
    expected_squared_error_between,
)
from graphopt.calibration.ranges import MSE_CLIPPED, MSE_FLOOR


def squared_error(values: np.ndarray, threshold: float, levels: int = 127) -> float:
    step = threshold / levels
    kept = np.clip(np.rint(values / step), -levels, levels) * step
    return float(np.mean((kept - values) ** 2))


@pytest.mark.parametrize("part", [0.05, 0.3, 0.7, 1.0, 1.007])
def test_the_expected_error_is_the_error_of_quantizing(part: float) -> None:
    values = np.random.default_rng(0).laplace(size=200_000)
    histogram = Histogram.of(values)
    threshold = part * histogram.largest
    (expected,) = expected_squared_error(histogram, np.array([threshold]), 127)
    assert expected == pytest.approx(squared_error(values, threshold), rel=0.01)


@settings(max_examples=50)
@given(floats32.filter(lambda values: values.size > 0 and np.abs(values).max() > 1e-30))
def test_mse_is_never_worse_than_min_max_by_its_own_measure(values: np.ndarray) -> None:
    histogram = Histogram.of(values)
    chosen, largest = (choose_range(histogram, m).threshold for m in ("mse", "minmax"))
    assert largest == np.abs(values).max()
    errors = expected_squared_error(histogram, np.array([chosen, largest]), 127)
    assert errors[0] <= errors[1]


@pytest.mark.parametrize(
    ("distribution", "optimum"), [("standard_normal", 3.92), ("laplace", 9.89)]
)
def test_mse_finds_the_optimum_known_from_theory(distribution: str, optimum: float) -> None:
    """Of 8 bits, in units of the deviation or the scale: table 1 of Banner et al., "Post training
    4-bit quantization of convolutional networks" (2019)."""
    values = getattr(np.random.default_rng(0), distribution)(size=4_000_000)
    threshold = choose_range(Histogram.of(values), "mse", 127).threshold
    assert threshold == pytest.approx(optimum, rel=0.05)


def test_zeros_do_not_move_the_threshold() -> None:
    values = np.maximum(np.random.default_rng(0).standard_normal(50_000), 0)
    spiked = np.concatenate([values, np.zeros(1_000_000)])
    one, other = Histogram.of(values), Histogram.of(spiked)
    assert other.zeros > 1_000_000
    assert choose_range(one, "mse") == choose_range(other, "mse")


def test_mse_does_not_clip_the_few_large_values_away() -> None:
    values = np.concatenate([np.random.default_rng(0).standard_normal(100_000), [1000.0]])
    assert choose_range(Histogram.of(values), "minmax") == Range(-1000, 1000)
    assert choose_range(Histogram.of(values), "mse").threshold >= MSE_FLOOR * 1000


def test_mse_clips_no_more_than_its_part_of_the_values() -> None:
    small, large = np.full(10_000, 0.01), np.full(30, 1.0)  # 3 in 1000, and they matter
    histogram = Histogram.of(np.concatenate([small, large]))
    threshold = choose_range(histogram, "mse").threshold
    assert histogram.clipped(threshold * 1.005) <= MSE_CLIPPED
    assert threshold > 0.99


def test_a_value_that_many_elements_share_falls_on_an_integer() -> None:
    background = -0.8033  # in the middle between two integers of min-max
    image = np.concatenate([np.full(50_000, background), np.linspace(-0.8, 2.02, 5000)])
    histogram = Histogram.of(image)
    errors = []
    for method in ("minmax", "mse"):
        step = choose_range(histogram, method).threshold / 127
        errors.append(abs(background / step - round(background / step)))
    assert errors[1] < 0.1 < 0.4 < errors[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_dead_tensor_has_no_range(method: str, symmetric: bool) -> None:
    for values in (np.zeros(5), np.zeros(0), np.array([-0.0])):
        found = choose_range(Histogram.of(values), method, symmetric=symmetric)
        assert (found.low, found.high) == (0, 0)


def test_an_unknown_method_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean 'minmax'"):
        choose_range(Histogram(), "minmaxx")
    for percent in (0, 101, float("nan")):
        with pytest.raises(ValueError, match="not above 0 and up to 100"):
            choose_range(Histogram(), "percentile", percent=percent)


@pytest.mark.parametrize(("symmetric", "levels"), [(True, 127), (True, 32767), (False, 255)])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(values=floats32.filter(lambda values: values.size > 0 and np.abs(values).max() > 1e-30))
def test_every_range_holds_zero_and_little_more_than_the_values(
    method: str, symmetric: bool, levels: int, values: np.ndarray
) -> None:
    values = values.astype(np.float64)
    found = choose_range(Histogram.of(values), method, levels, symmetric=symmetric)
    assert found.low <= 0 <= found.high
    assert found.low < found.high
    if symmetric:
        assert found.low == -found.high
        assert found.high <= np.abs(values).max() * (1 + 1 / levels)
    else:
        least, greatest = min(values.min(), 0.0), max(values.max(), 0.0)
        assert found.low >= least * (1 + 1 / levels)
        assert found.high <= greatest * (1 + 1 / levels)


def test_min_max_clips_nothing() -> None:
    histogram = Histogram.of(np.array([-0.5, 0.0, 3.0]))
    assert choose_range(histogram, "minmax") == Range(-3, 3)
    assert choose_range(histogram, "minmax", symmetric=False) == Range(-0.5, 3)
    positive = Histogram.of(np.array([1.0, 3.0]))
    assert choose_range(positive, "minmax", symmetric=False) == Range(0, 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), percent=st.floats(50, 100), relu=st.booleans())
def test_a_percentile_is_that_of_the_values_to_a_bin(seed: int, percent: float, relu: bool) -> None:
    values = np.random.default_rng(seed).laplace(0.3, size=500)
    values = np.maximum(values, 0) if relu else values
    present, histogram = values[values != 0], Histogram.of(values)

    threshold = choose_range(histogram, "percentile", percent=percent).threshold
    cut = (1 - percent / 100) * len(present)
    assert (np.abs(present) > threshold).sum() <= cut
    assert (np.abs(present) >= threshold - histogram.width).sum() > cut or threshold == 0

    found = choose_range(histogram, "percentile", symmetric=False, percent=percent)
    assert (present > found.high).sum() <= cut / 2
    assert (present >= found.high - histogram.width).sum() > cut / 2
    assert (present < found.low).sum() <= cut / 2
    assert found.low == 0 or (present <= found.low + histogram.width).sum() > cut / 2


def test_a_percentile_does_not_cut_off_what_a_relu_leaves() -> None:
    values = np.zeros(1_000_000)
    values[:50] = np.linspace(1, 2, 50)  # 99.99% of all values are zero
    for symmetric in (True, False):
        assert choose_range(Histogram.of(values), "percentile", symmetric=symmetric).high > 1.9


def quantized(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    """To integers with a zero point, and back."""
    scale = (high - low) / levels
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, levels) - zero) * scale


@pytest.mark.parametrize("limits", [(-1.0, 8.0), (-0.4, 3.0), (-2.0, 0.5), (0.0, 5.0)])
@pytest.mark.parametrize("levels", [15, 255])
def test_the_expected_error_with_a_zero_point(limits: tuple[float, float], levels: int) -> None:
    values = np.random.default_rng(0).laplace(0.5, size=200_000)
    histogram = Histogram.of(values)
    (expected,) = expected_squared_error_between(histogram, np.array([limits]), levels)
    actual = np.mean((quantized(values, *limits, levels) - values) ** 2)
    assert expected == pytest.approx(actual, rel=0.01)


@pytest.mark.parametrize("levels", [63, 255])
def test_mse_with_a_zero_point_is_about_the_best_of_all_ranges(levels: int) -> None:
    values = np.random.default_rng(0).laplace(0.2, size=50_000)
    histogram = Histogram.of(values)
    found = choose_range(histogram, "mse", levels, symmetric=False)
    grid = [(low, high) for low in np.linspace(-8, -1, 15) for high in np.linspace(1, 8, 15)]
    errors = [np.mean((quantized(values, *ends, levels) - values) ** 2) for ends in grid]
    error = np.mean((quantized(values, found.low, found.high, levels) - values) ** 2)
    assert error <= min(errors) * 1.02


def divergence(values: np.ndarray, threshold: float, bins: int, levels: int) -> float:
    """The loss of information of Migacz's slides, by loops, of positive values."""
    width = values.max() / bins
    count = round(threshold / width)
    index = np.minimum((values / width).astype(int), bins - 1)
    true = np.bincount(index, minlength=bins).astype(float)
    kept = true[:count].copy()
    true[count - 1] += true[count:].sum()
    spread = np.full(count, kept[kept > 0].min())  # for what is clipped into an empty bin
    group = np.rint((np.arange(count) + 0.5) * width / (threshold / levels)).astype(int)
    for level in set(group.tolist()):
        mine = (group == level) & (kept > 0)
        if mine.any():
            spread[mine] = kept[group == level].sum() / mine.sum()
    p, q = true[:count] / true.sum(), spread / kept.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def test_entropy_finds_the_least_divergence_of_many_thresholds() -> None:
    values = np.abs(np.random.default_rng(0).laplace(size=100_000))
    values *= 7.99 / values.max()
    values[0] = 8 * (1 - 1e-9)  # so that the bins of the histogram are those below
    threshold = choose_range(Histogram.of(values), "entropy").threshold
    candidates = np.arange(128, 2049, 16) / 2048 * 8
    losses = [divergence(values, t, 2048, 127) for t in candidates]
    assert len(set(losses)) > 100
    assert divergence(values, threshold, 2048, 127) <= min(losses) * 1.05
    assert threshold < 0.9 * values.max()


def test_entropy_cannot_tell_more_than_its_bins() -> None:
    histogram = Histogram.of(np.random.default_rng(0).standard_normal(10_000))
    assert choose_range(histogram, "entropy", 32767) == choose_range(histogram, "minmax")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", ["normal", "outlier", "two values", "relu", "heavy"])
def test_auto_is_as_good_as_the_best_that_does_not_collapse(shape: str, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.standard_normal(20_000),
        "outlier": np.append(rng.standard_normal(20_000), [90.0]),
        "two values": np.repeat([0.01, 1.0], [10_000, 30]),
        "relu": np.maximum(rng.standard_normal(20_000), 0),
        "heavy": rng.standard_cauchy(20_000),
    }[shape]
    levels = 127 if symmetric else 255
    histogram = Histogram.of(values)

    def error(method: str) -> float:
        found = choose_range(histogram, method, levels, symmetric=symmetric)
        rows = np.array([[found.low, found.high]])
        if symmetric:
            return float(expected_squared_error(histogram, rows[:, 1], levels)[0])
        return float(expected_squared_error_between(histogram, rows, levels)[0])

    assert error("auto") <= min(error("mse"), error("minmax"))
    found = choose_range(histogram, "auto", levels, symmetric=symmetric)
    assert found.high >= MSE_FLOOR * values.max()
    assert np.mean(values > found.high * (1 + 1 / 127)) <= 2 * MSE_CLIPPED


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (0.0, np.inf), (np.nan, 1.0)])
def test_a_range_is_finite_and_the_right_way_round(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=r"finite|above high"):
        Range(low, high)


def test_the_threshold_of_a_range_covers_it() -> None:
    assert [Range(-1, 2).threshold, Range(-3, 2).threshold, Range(1, 2).threshold] == [2, 3, 2]
    assert Range(0, 0).threshold == 0
