"""Watching tensors in one pass over the samples."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from models import model as parse
from observed import NAMES, NET, samples, state
from onnx.reference import ReferenceEvaluator

from graphopt.calibration import Histogram, collect, collect_channels
from graphopt.calibration.plan import Plan
from graphopt.calibration.positions import POSITIONS, Positions
from graphopt.calibration.watching import HistogramObserver
from graphopt.data.feeds import Feed
from graphopt.errors import GraphoptError


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
    observers = {name: HistogramObserver() for name in NAMES}
    results = []
    # A tensor is 16 bytes a sample: all at once, two, one, then three groups of two.
    for budget, batch, groups in ((1 << 20, 32, 1), (160, 2, 1), (80, 1, 1), (32, 1, 3), (1, 1, 5)):
        source = samples(net, data)
        results.append(collect(net, NAMES, source, budget=budget))
        assert len(source.starts) == 1
        plan = Plan.of(net, observers, next(iter(source)), budget)
        assert (plan.task.batch, len(plan.task.groups)) == (batch, groups)
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


def test_groups_follow_the_graph_and_not_the_order_of_the_names() -> None:
    net = parse(NET)
    observers = {name: HistogramObserver() for name in reversed(NAMES)}
    plan = Plan.of(net, observers, {"x": np.ones((1, 4), np.float32)}, 32)
    assert plan.task.groups == (("x", "a"), ("b", "c"), ("y",))
    assert list(collect(net, observers, samples(net, np.ones((2, 4), np.float32)))) == NAMES[::-1]


class OneTime:
    """A source that can be read once: a second look finds nothing."""

    is_random = False
    description = "a generator"

    def __init__(self, rows: Iterable[np.ndarray]) -> None:
        self._feeds = ({"x": row[np.newaxis]} for row in rows)

    def __iter__(self) -> Iterator[Feed]:
        return self._feeds

    def count(self) -> None:
        return None


@pytest.mark.parametrize("budget", [1 << 20, 32])
def test_a_source_that_can_be_read_once_is_enough(budget: int) -> None:
    net = parse(NET)
    data = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    found = collect(net, NAMES, OneTime(data), budget=budget)
    assert state(found["x"]) == state(Histogram.of(data))


def test_one_sample_and_no_tensors() -> None:
    net = parse(NET)
    data = np.array([[-1, 0, 0, 2]], np.float32)
    found = collect(net, ["a"], samples(net, data))["a"]
    assert (found.low, found.high, found.zeros, found.size) == (-2, 4, 2, 4)
    assert collect(net, [], samples(net, data)) == {}


def test_a_tensor_that_the_model_does_not_have() -> None:
    net = parse(NET)
    with pytest.raises(GraphoptError, match="there is no value 'z' in the main graph"):
        collect(net, ["z"], samples(net, np.ones((2, 4), np.float32)))


def test_integers_have_no_range() -> None:
    net = parse(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n] x) => (int64[m] s) { i = NonZero (x) s = Squeeze (i) }"""
    )
    with pytest.raises(GraphoptError, match=r"tensor 's': is int64; only tensors of floats"):
        collect(net, ["s"], samples(net, np.array([0, 1], np.float32)))


def test_a_tensor_without_elements_has_an_empty_histogram() -> None:
    net = parse(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[batch, 4] x) => (float[batch, 0] y)
        <int64[1] one = {1}, int64[1] zero = {0}> { y = Slice (x, zero, zero, one) }"""
    )
    found = collect(net, ["y", "x"], samples(net, np.ones((3, 4), np.float32)))
    assert (found["y"].size, found["x"].size) == (0, 12)


def test_samples_of_different_sizes_do_not_share_a_run() -> None:
    net = parse(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[batch, n] x) => (float[batch, n] y) { y = Relu (x) }"""
    )
    rows = [np.full(n, n, np.float32) for n in (3, 3, 5, 3)]
    found = collect(net, ["y"], OneTime(rows))
    assert state(found["y"]) == state(Histogram.of(np.concatenate(rows)))


def test_a_float16_model_is_calibrated_as_it_is() -> None:
    """No rewrite of ONNX Runtime's may leave out the rounding between the two nodes."""
    net = parse(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float16[batch, 4] x) => (float16[batch, 4] y) <float[1] f = {0.001}>
        { k = Cast <to = 10> (f) a = Mul (x, k) y = Sub (a, x) }"""
    )
    data = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float16)
    first = next(iter(samples(net, data)))
    assert not Plan.of(net, {"y": HistogramObserver()}, first, 1000).task.optimize
    found = collect(net, ["y"], samples(net, data))["y"]
    expected = data * np.float16(0.001) - data
    assert state(found) == state(Histogram.of(expected))


def test_a_quantized_model_is_calibrated_as_it_is() -> None:
    """ONNX Runtime's rewrites would compute the addition in integers."""
    net = parse(
        """<ir_version: 9, opset_import: ["" : 19]>
        g (float[batch, 4] x) => (float[batch, 4] y)
        <float s = {0.05}, float t = {0.07}, int8 z = {0}>
        {
            q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
            a = Add (d, d)
            p = QuantizeLinear (a, t, z) y = DequantizeLinear (p, t, z)
        }"""
    )
    data = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    (expected,) = ReferenceEvaluator(ir.to_proto(net)).run(None, {"x": data})
    found = collect(net, ["a", "y"], samples(net, data))
    assert state(found["y"]) == state(Histogram.of(expected))
    first = next(iter(samples(net, data)))
    assert not Plan.of(net, {"a": HistogramObserver()}, first, 1000).task.optimize


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_fixed_batch_is_filled_up(number: int) -> None:
    net = parse(NET.replace("[batch, 4]", "[4, 4]"))
    data = np.random.default_rng(0).standard_normal((number, 4)).astype(np.float32)
    found = collect(net, ["a"], samples(net, data))["a"]
    assert (found.low, found.high) == (2 * data.min(), 2 * data.max())
    assert found.size == 16 * -(-number // 4)


LARGE = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[batch, 6, 100, 100] x) => (float[batch, 6, 100, 100] y) { y = Relu (x) }
"""


def test_large_tensors_are_counted_at_the_same_positions_in_every_batch() -> None:
    net = parse(LARGE)
    data = np.random.default_rng(0).standard_normal((5, 6, 100, 100)).astype(np.float32)
    data[3, 0, 0, 1] = 77  # not at a position, but in the range
    one, whole = (
        collect(net, ["y"], samples(net, data), budget=budget)["y"] for budget in (1, 1 << 30)
    )
    assert state(one) == state(whole)
    assert (whole.low, whole.high) == (0, 77)
    assert 5 * POSITIONS * 0.4 < whole.size <= 5 * POSITIONS
    zeros = whole.zeros / whole.size
    assert zeros == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(whole.size))


SIZES = [1, 7, POSITIONS, POSITIONS + 1, 602_112, 1 << 20, 3 * 5 * 7 * 2048]


@pytest.mark.parametrize("size", SIZES)
def test_positions_meet_every_channel_and_every_column(size: int) -> None:
    found = Positions.of(2 * size, 2)
    indices = found.indices()
    assert size <= POSITIONS or POSITIONS * 0.4 < indices.shape[1] <= POSITIONS
    assert (indices[1] - indices[0] == size).all()
    assert found.take(np.arange(2 * size)).ravel().tolist() == indices.ravel().tolist()
    for period in (2, 3, 7, 16, 64):
        if size % period == 0:
            assert len(set((indices[0] % period).tolist())) == period


def test_what_does_not_divide_into_samples_is_one() -> None:
    assert Positions.of(7, 2) == Positions(1, (7,), (1,))
    assert Positions.of(0, 0) == Positions(1, (0,), (1,))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_channels_that_are_not_finite_and_axes_that_are_not_there(bad: float) -> None:
    net = parse(NET)
    data = np.ones((3, 4), np.float32)
    with pytest.raises(GraphoptError, match=r"tensor 'a': takes a shape of rank 2, without axis 2"):
        collect_channels(net, {"a": 2}, samples(net, data))
    data[2, 1] = bad
    with pytest.raises(GraphoptError, match=r"tensor 'a': takes .* on the calibration data"):
        collect_channels(net, {"a": 1}, samples(net, data))


MEMORY = """
import resource, sys
import numpy as np
from models import model
from observed import Noise
from graphopt.calibration import collect
net = model(open(sys.argv[1]).read())
found = collect(net, ["x", "a", "b", "c", "y"], Noise(int(sys.argv[2])), budget=1 << 24)
assert found["y"].low < -3
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """256 samples of five tensors of 0.75 MB would be 960 MB, and the samples alone 190 MB."""
    (tmp_path / "net.txt").write_text(NET.replace("4]", "3, 256, 256]"))
    peaks = []
    for number in ("16", "256"):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / "net.txt"), number]
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        peaks.append(int(done.stdout))
    assert abs(peaks[1] - peaks[0]) < 50
