"""Large tensors that the model sums up: the histograms are those of the values, to the bit."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt import GraphoptError
from graphopt.calibration import Histogram, collect, plan, watching
from graphopt.calibration.plan import Plan
from graphopt.calibration.positions import POSITIONS, Positions
from graphopt.calibration.watching import HistogramObserver
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.runtime.tap import tapped

SIZE = 80 * 3 * 60  # of a sample: more than are counted


def net(body: str, shape: str = "N, 3, 80, 60", opset: int = 17) -> ir.Model:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float[{shape}] y)'
    )
    return ir.from_proto(onnx.parser.parse_model(f"{text} {{ {body} }}"))


def samples(model: ir.Model, array: np.ndarray) -> ArraySamples:
    return ArraySamples("test data", {"x": array}, input_specs(model))


def noise(count: int = 5) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 3, 80, 60)).astype(np.float32)


def summed_up(
    model: ir.Model, names: tuple[str, ...], feed: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample of what the model sums up itself."""
    observers = dict.fromkeys(names, HistogramObserver())
    made = Plan.of(model, observers, {"x": feed}, plan.BUDGET_BYTES)
    found = {name: observer.positions for name, observer in made.task.observers}
    return {name: positions.shape for name, positions in found.items() if positions is not None}


def same(one: Histogram, other: Histogram) -> bool:
    fields = (one.low, one.high, one.zeros, one.exponent)
    return fields == (other.low, other.high, other.zeros, other.exponent) and np.array_equal(
        one.counts, other.counts
    )


ROWS = ("a = Relu(x) b = Neg(a) y = Add(b, x)", (SIZE,))
MAPS = (
    "a = Relu(x) b = AveragePool<kernel_shape=[1, 1]>(x) p = MaxPool<kernel_shape=[1, 1]>(a)"
    " y = Add(b, p)",
    (3, 80, 60),
)


@pytest.mark.parametrize("opset", [10, 13, 18, 22])
@pytest.mark.parametrize(("body", "shape"), [ROWS, MAPS])
@pytest.mark.parametrize("sign", [1, -1])
def test_histograms_are_those_of_the_values(
    body: str, shape: tuple[int, ...], opset: int, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(body, opset=opset)
    array = noise()
    array[2, 1, 70, 50] = sign * 20  # at none of the positions: the range is that of all values
    names = ("x", "a", "b", "y")
    assert summed_up(model, names, array[:1]) == dict.fromkeys(names[:-1], shape)
    summed = collect(model, names, samples(model, array))
    monkeypatch.setattr(watching, "sketched", lambda net, names, _: (tapped(net, names), {}))
    whole = collect(model, names, samples(model, array))
    assert all(same(summed[name], whole[name]) for name in names)
    assert (summed["x"].low, summed["x"].high) == (float(array.min()), float(array.max()))
    assert summed["a"].zeros > 0


@pytest.mark.parametrize("height", [1, 7, 14, 56, 60, 112, 1000])
@pytest.mark.parametrize("channels", [1, 3, 64, 2048])
def test_positions_in_maps_meet_every_channel_and_no_pattern(channels: int, height: int) -> None:
    width = 2 * height
    found = Positions.of_maps(channels, height, width)
    indices = found.indices()[0]
    size = channels * height * width
    if size < 1 << 24:
        assert found.take(np.arange(size)).ravel().tolist() == indices.tolist()
    where = np.unravel_index(indices, (channels, height, width))
    assert set(where[0].tolist()) == set(range(channels))
    assert min(size, POSITIONS) / 4 <= len(indices) <= max(POSITIONS, 4 * channels)
    for axis, length in zip(where[1:], (height, width), strict=True):
        for period in (2, 3, 5, 7):
            if length % period == 0 and len(set(axis.tolist())) >= period:
                assert len(set((axis % period).tolist())) == period


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, SIZE // 2 + 1, SIZE - 1])
@pytest.mark.parametrize(
    ("operator", "shape"), [("Neg", (SIZE,)), ("GlobalAveragePool", (3, 80, 60))]
)
def test_no_value_that_is_not_finite_is_missed(
    value: float, place: int, operator: str, shape: tuple[int, ...]
) -> None:
    array = noise()
    array[3].reshape(-1)[place] = value
    model = net(f"y = {operator}(x)")
    assert summed_up(model, ("x",), array[:1])["x"] == shape
    with pytest.raises(GraphoptError, match=r"tensor 'x': takes .* on the calibration data"):
        collect(model, ("x",), samples(model, array))


@pytest.mark.parametrize("operator", ["Neg", "GlobalAveragePool"])
def test_a_sum_beyond_all_floats_is_no_mistake(operator: str) -> None:
    array = np.abs(noise()) * np.float32(3e37)
    model = net(f"y = {operator}(x)")
    found = collect(model, ("x",), samples(model, array))["x"]
    assert (found.low, found.high) == (float(array.min()), float(array.max()))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (net("y = Neg(x)", "N, 3, H, 60"), "sizes differ from sample to sample"),
        (net("y = Neg(x)", opset=9), "no Slice with a step"),
        (net("y = Neg(x)", "N, 3, 8, 6"), "all are counted"),
        (net("t = Transpose<perm=[1, 0, 2, 3]>(x) y = Neg(t)"), "the batch is not outermost"),
    ],
)
def test_what_the_model_cannot_sum_up(model: ir.Model, why: str) -> None:
    name = "t" if "t" in {v.name for node in model.graph for v in node.outputs} else "x"
    feed_shape = [1 if not isinstance(n, int) else n for n in model.graph.inputs[0].shape or ()]
    assert summed_up(model, (name,), np.zeros(feed_shape, np.float32)) == {}, why
