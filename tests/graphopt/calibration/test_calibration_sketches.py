"""Large tensors that the model sums up: the histograms are those of the values, to the bit."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt import GraphoptError
from graphopt.calibration import Histogram, collect, plan
from graphopt.calibration.plan import Plan
from graphopt.calibration.watching import HistogramObserver
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs

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


def large(model: ir.Model, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    feed = {"x": noise(1)}
    made = Plan.of(model, dict.fromkeys(names, HistogramObserver()), feed, plan.BUDGET_BYTES)
    return dict(made.task.shapes)


def same(one: Histogram, other: Histogram) -> bool:
    fields = (one.low, one.high, one.zeros, one.exponent)
    return fields == (other.low, other.high, other.zeros, other.exponent) and np.array_equal(
        one.counts, other.counts
    )


@pytest.mark.parametrize("opset", [10, 13, 18, 22])
def test_histograms_are_those_of_the_values(opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net("a = Relu(x) b = Neg(a) y = Add(b, x)", opset=opset)
    names = ("x", "a", "b", "y")
    assert large(model, names) == dict.fromkeys(names[:-1], (1, 3, 80, 60))
    summed = collect(model, names, samples(model, noise()))
    monkeypatch.setattr(plan, "_large", lambda *_: ())
    whole = collect(model, names, samples(model, noise()))
    assert all(same(summed[name], whole[name]) for name in names)
    assert summed["x"].low == float(noise().min())
    assert summed["a"].zeros > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, SIZE // 2 + 1, SIZE - 1])
def test_no_value_that_is_not_finite_is_missed(value: float, place: int) -> None:
    array = noise()
    array[3].reshape(-1)[place] = value
    model = net("y = Neg(x)")
    assert large(model, ("x",))
    with pytest.raises(GraphoptError, match=r"tensor 'x': takes .* on the calibration data"):
        collect(model, ("x",), samples(model, array))


def test_a_sum_beyond_all_floats_is_no_mistake() -> None:
    array = np.abs(noise()) * np.float32(3e37)
    model = net("y = Neg(x)")
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
    feed = {"x": np.zeros(feed_shape, np.float32)}
    made = Plan.of(model, {name: HistogramObserver()}, feed, plan.BUDGET_BYTES)
    assert made.task.shapes == (), why
