"""Histograms that merge to the bit, the ranges chosen from them, collecting in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import model as parse

from graphopt.calibration import Histogram, choose_range, collect, expected_squared_error
from graphopt.calibration.histogram import BINS
from graphopt.calibration.ranges import MSE_CLIPPED, MSE_FLOOR
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs
from graphopt.errors import GraphoptError

floats32 = hnp.arrays(
    np.float32,
    st.integers(0, 40),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
floats64 = hnp.arrays(
    np.float64, st.integers(0, 40), elements=st.floats(allow_nan=False, allow_infinity=False)
)
arrays = st.one_of(floats32, floats64)


def state(histogram: Histogram) -> tuple[object, ...]:
    """All that a histogram is, to the bit."""
    return (
        np.float64(histogram.low).tobytes(),
        np.float64(histogram.high).tobytes(),
        histogram.zeros,
        histogram.exponent,
        histogram.counts.tobytes(),
    )


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
    chosen, largest = (choose_range(histogram, method) for method in ("mse", "minmax"))
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
    assert choose_range(Histogram.of(values), "mse", 127) == pytest.approx(optimum, rel=0.05)


def test_zeros_do_not_move_the_threshold() -> None:
    values = np.maximum(np.random.default_rng(0).standard_normal(50_000), 0)
    spiked = np.concatenate([values, np.zeros(1_000_000)])
    one, other = Histogram.of(values), Histogram.of(spiked)
    assert other.zeros > 1_000_000
    assert choose_range(one, "mse") == choose_range(other, "mse")


def test_mse_does_not_clip_the_few_large_values_away() -> None:
    values = np.concatenate([np.random.default_rng(0).standard_normal(100_000), [1000.0]])
    assert choose_range(Histogram.of(values), "minmax") == 1000
    assert choose_range(Histogram.of(values), "mse") >= MSE_FLOOR * 1000


def test_mse_clips_no_more_than_its_part_of_the_values() -> None:
    small, large = np.full(10_000, 0.01), np.full(30, 1.0)  # 3 in 1000, and they matter
    histogram = Histogram.of(np.concatenate([small, large]))
    threshold = choose_range(histogram, "mse")
    assert histogram.clipped(threshold * 1.005) <= MSE_CLIPPED
    assert threshold > 0.99


def test_a_value_that_many_elements_share_falls_on_an_integer() -> None:
    background = -0.8033  # in the middle between two integers of min-max
    image = np.concatenate([np.full(50_000, background), np.linspace(-0.8, 2.02, 5000)])
    histogram = Histogram.of(image)
    errors = []
    for method in ("minmax", "mse"):
        step = choose_range(histogram, method) / 127
        errors.append(abs(background / step - round(background / step)))
    assert errors[1] < 0.1 < 0.4 < errors[0]


def test_a_dead_tensor_has_no_range_and_an_unknown_method_a_hint() -> None:
    for method in ("minmax", "mse"):
        assert choose_range(Histogram.of(np.zeros(5)), method) == 0
        assert choose_range(Histogram(), method) == 0
    with pytest.raises(ValueError, match="did you mean 'minmax'"):
        choose_range(Histogram(), "minmaxx")


NET = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[batch, 4] x) => (float[batch, 4] y) <float[1] two = {2}>
{
    a = Mul (x, two)
    b = Relu (a)
    c = Neg (b)
    y = Add (c, x)
}
"""
NAMES = ["x", "a", "b", "c", "y"]


@dataclass
class Counted:
    """Samples that count how often they are read from the start."""

    inner: ArraySamples
    is_random: bool = False
    description: str = "counted"
    starts: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[Feed]:
        self.starts.append(1)
        return iter(self.inner)

    def count(self) -> int:
        return self.inner.count()


def samples(of: ir.Model, data: np.ndarray) -> Counted:
    return Counted(ArraySamples("test", {"x": data}, input_specs(of)))


def test_collect_sees_every_value_of_every_tensor() -> None:
    net = parse(NET)
    data = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    found = collect(net, NAMES, samples(net, data))
    doubled = data * 2
    expected = {"x": data, "a": doubled, "b": np.maximum(doubled, 0)}
    expected |= {"c": -expected["b"], "y": data - expected["b"]}
    assert list(found) == NAMES
    for name in NAMES:
        assert state(found[name]) == state(Histogram.of(expected[name]))


def test_collect_reads_the_data_once_and_splits_only_what_does_not_fit() -> None:
    net = parse(NET)
    data = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    results = []
    # A tensor is 16 bytes a sample: all at once, one sample at once, then three groups of two.
    for budget, passes in ((1 << 20, 1), (5 * 16, 1), (2 * 16, 3), (1, 5)):
        source = samples(net, data)
        results.append(collect(net, NAMES, source, budget=budget))
        assert len(source.starts) - 1 == passes  # the first look is for the shapes
    for found in results[1:]:
        assert {n: state(h) for n, h in found.items()} == {
            n: state(h) for n, h in results[0].items()
        }


def test_collect_stops_at_the_limit() -> None:
    net = parse(NET)
    found = collect(net, ["x"], samples(net, np.ones((50, 4), np.float32)), limit=7)
    assert found["x"].size == 7 * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_collect_names_the_tensor_that_is_not_finite(bad: float) -> None:
    net = parse(NET)
    data = np.ones((3, 4), np.float32)
    data[1, 2] = -bad
    with pytest.raises(GraphoptError, match=r"tensor 'a': takes .* on the calibration data"):
        collect(net, ["a"], samples(net, data))


def test_collect_refuses_no_samples() -> None:
    net = parse(NET)
    with pytest.raises(GraphoptError, match="holds no samples"):
        collect(net, ["a"], samples(net, np.ones((0, 4), np.float32)))


def test_collect_works_where_shapes_cannot_be_inferred() -> None:
    net = parse(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n] x) => (float[m] y) { i = NonZero (x) s = Squeeze (i) y = Gather (x, s) }"""
    )
    found = collect(net, ["y"], samples(net, np.array([0, 1, 0, 2], np.float32)))
    assert (found["y"].size, found["y"].high) == (2, 2)
