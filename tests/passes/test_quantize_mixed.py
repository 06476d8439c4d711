"""`quantize` by measurement: the sensitivity of layers, and the fewest of them left in float."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from models import serialized
from quantize_nets import Array, context, data, decibels, net, nodes, quantize, runtime

import graphopt
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, input_specs
from graphopt.data.parts import PERIOD
from graphopt.errors import GraphoptError
from graphopt.pipeline.base import Need, PassContext, PassResult
from graphopt.pipeline.text import parse
from graphopt.progress import Progress, Quiet
from graphopt_passes.quantize import Quantize, sensitivity
from graphopt_passes.quantize.judge import Judge

FIXTURES = Path(__file__).parents[2] / "fixtures"
COUNT = 32


def spoilt_net() -> ir.Model:
    """Four Convs; the first one's input has a few values that are far out, and clipped after it.

    No rescaling of channels helps: the values are in any channel of the model's own input.
    """
    return net(
        "a = Conv <pads = [1, 1, 1, 1]> (x, wa) b = Clip (a, low, high) "
        "c = Conv <pads = [1, 1, 1, 1]> (b, wb) d = Relu (c) "
        "e = Conv <pads = [1, 1, 1, 1]> (d, wc) f = Relu (e) y = Conv (f, wd)",
        wa=(8, 4, 3, 3),
        wb=(8, 8, 3, 3),
        wc=(16, 8, 3, 3),
        wd=(4, 16, 1, 1),
        low=np.array(-3, np.float32),
        high=np.array(3, np.float32),
    )


def spoilt_data(model: ir.Model) -> Feed:
    feed = data(model, count=COUNT)
    feed["x"][:, :, 3, 3] = 1000 * np.sign(feed["x"][:, :, 3, 3])
    return feed


def held_out(feed: Feed) -> Feed:
    return {name: array[PERIOD - 1 :: PERIOD] for name, array in feed.items()}


def fitted(feed: Feed) -> Feed:
    kept = np.arange(COUNT) % PERIOD != PERIOD - 1
    return {name: array[kept] for name, array in feed.items()}


def sqnr(model: ir.Model, other: ir.Model, feed: Feed) -> float:
    return decibels(runtime(model, feed)[0], runtime(other, feed)[0])


def rows(result: PassResult) -> dict[str, dict[str, Any]]:
    return {row["node"]: row for row in result.details["sensitivity"]["layers"]}


def floating(result: PassResult) -> set[str]:
    return {name for name, row in rows(result).items() if row["precision"] == "float"}


def quantized_nodes(model: ir.Model) -> set[str]:
    return {line.partition(" ")[0] for line in nodes(model) if "Conv" in line and "^" in line}


@cache
def everywhere() -> PassResult:
    model = spoilt_net()
    return quantize(model, spoilt_data(model), sensitivity=True)


@pytest.mark.parametrize("layer", ["a", "c", "y"])
def test_the_figure_of_a_layer_is_that_of_a_model_with_it_alone(layer: str) -> None:
    model = spoilt_net()
    feed = spoilt_data(model)
    others = tuple(name for name in ("a", "c", "e", "y") if name != layer)
    alone = quantize(model, fitted(feed), exclude=others, islands=True, equalize=False).model
    assert quantized_nodes(alone) == {layer}
    expected = sqnr(model, alone, held_out(feed))
    assert rows(everywhere())[layer]["sqnr_db"] == pytest.approx(expected, abs=1e-4)


def test_the_table_of_a_trained_net() -> None:
    model = graphopt.optimize(FIXTURES / "resnet.onnx", "lossless", verify="off").model
    with np.load(FIXTURES / "calib.npz") as file:
        feed = {"image": file["image"][:COUNT]}
    result = quantize(model, feed, sensitivity=True, equalize=False)
    assert result.unmet is None
    table = result.details["sensitivity"]
    assert table["samples"] == COUNT // PERIOD
    names = [row["node"] for row in table["layers"]]
    layer = names[4]
    others = tuple(name for name in names if name != layer)
    alone = quantize(model, fitted(feed), exclude=others, islands=True, equalize=False).model
    assert rows(result)[layer]["sqnr_db"] == pytest.approx(
        sqnr(model, alone, held_out(feed)), abs=1e-3
    )
    assert table["everywhere_db"] == pytest.approx(
        sqnr(model, result.model, held_out(feed)), abs=1e-3
    )
    macs = {node.name: node.macs for node in graphopt.measure(model).per_node}
    assert all(row["macs"] == macs[row["node"]] > 0 for row in table["layers"])
    noise = sum(10 ** (-row["sqnr_db"] / 10) for row in table["layers"])
    assert -10 * np.log10(noise) == pytest.approx(table["everywhere_db"], abs=3)


BRANCHES = (
    "p = Conv (x, wa) q = Conv (x, wb) i = Concat <axis = 1> (p, q) m = MaxPool <kernel_shape = "
    "[2, 2]> (i) r = Conv (m, wc) s = Conv (p, wd) t = Relu (s) y = GlobalAveragePool (r) "
    "n = Conv (t, we) z = Cast <to = 7> (n)"
)


@pytest.mark.parametrize("held", [0, 20_000, 1 << 28])
def test_a_run_from_the_layer_on_has_the_bits_of_a_whole_run(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(
        BRANCHES,
        outputs="float[N, C, 1, 1] y, int64[N, K, H, W] z, float[N, K, H, W] n",
        wa=(4, 4, 1, 1),
        wb=(4, 4, 1, 1),
        wc=(4, 8, 1, 1),
        wd=(4, 4, 1, 1),
        we=(2, 4, 1, 1),
    )
    feed = data(model, count=COUNT)
    monkeypatch.setattr(sensitivity, "HELD_BYTES", held)
    found = {
        name: row["sqnr_db"]
        for name, row in rows(quantize(model, feed, sensitivity=True, equalize=False)).items()
    }
    assert set(found) == {"p", "q", "r", "s", "n"}
    reference = runtime(model, held_out(feed))
    for layer in found:
        others = tuple(name for name in found if name != layer)
        alone = quantize(model, fitted(feed), exclude=others, islands=True, equalize=False).model
        outputs = runtime(alone, held_out(feed))
        worst = min(  # of `y` and `n`; `z` is no floating-point number
            decibels(reference[i], outputs[i]) if (reference[i] != outputs[i]).any() else np.inf
            for i in (0, 2)
        )
        assert found[layer] == pytest.approx(worst, abs=1e-4)


def test_an_input_that_is_an_output_as_well() -> None:
    """From the first layer on nothing reads it any more."""
    model = net(
        "r = Relu (x) y = Conv (r, w)",
        outputs="float[N, 4, 8, 8] x, float[N, 4, 8, 8] y",
        w=(4, 4, 1, 1),
    )
    assert list(rows(quantize(model, sensitivity=True))) == ["y"]


def test_only_the_layer_that_suffers_stays_float() -> None:
    model = spoilt_net()
    feed = spoilt_data(model)
    assert everywhere().details["sensitivity"]["everywhere_db"] < 10
    assert floating(everywhere()) == set()
    result = quantize(model, feed, min_sqnr=30)
    assert floating(result) == {"a"}
    assert quantized_nodes(result.model) == {"c", "e", "y"}
    assert result.unmet is None
    assert sqnr(model, result.model, held_out(feed)) >= 30
    search = result.details["search"]
    assert search["met"]
    assert search["layers_in_float"] == 1
    assert search["figure"] == pytest.approx(sqnr(model, result.model, held_out(feed)), abs=1e-4)
    assert search["choices_measured"] <= search["choices_at_most"]
    assert 0 < search["share_of_macs_quantized"] < 1
    assert any("left in float, to reach min_sqnr=30: 'a'" in note for note in result.notes)


def test_onnx_runtime_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = spoilt_net()
    feed = spoilt_data(model)
    step = Quantize(min_sqnr=30, canonicalize=False, islands=True)
    result = step.run(model, context(model, feed, "onnxruntime-cpu"))
    assert {row["precision"] for row in rows(result).values()} == {"uint8", "float"}
    assert floating(result) == {"a"}
    assert sqnr(model, result.model, held_out(feed)) >= 30
    monkeypatch.setattr(sensitivity, "HELD_BYTES", 0)
    whole = step.run(model, context(model, feed, "onnxruntime-cpu"))
    assert whole.details["sensitivity"] == result.details["sensitivity"]


def test_a_model_that_is_quantized_in_part() -> None:
    """What is there already stays; the search is over the rest."""
    model = spoilt_net()
    feed = spoilt_data(model)
    part = quantize(model, feed, include=("e",), islands=True).model
    result = quantize(part, feed, min_sqnr=30)
    assert floating(result) == {"a"}
    assert rows(result)["e"]["sqnr_db"] == np.inf
    assert quantized_nodes(result.model) == {"c", "e", "y"}


def test_nothing_stays_float_where_that_is_good_enough() -> None:
    model = net("y = Conv (x, w)", w=(8, 4, 3, 3))
    result = quantize(model, data(model, count=COUNT), min_sqnr=20)
    assert floating(result) == set()
    assert result.unmet is None
    assert result.details["search"]["choices_measured"] == 1


def test_what_cannot_be_reached_is_said_and_the_nearest_found() -> None:
    model = spoilt_net()
    result = quantize(model, spoilt_data(model), min_sqnr=200)
    assert result.unmet is not None
    assert "no choice of layers reaches min_sqnr=200" in result.unmet
    figures = {name: row["sqnr_db"] for name, row in rows(result).items()}
    best = max(figures, key=lambda name: figures[name])
    assert quantized_nodes(result.model) == {best}
    assert result.details["search"]["figure"] == pytest.approx(figures[best], abs=1e-4)


class Closeness:
    """A score by a user: 100 less the error, in per cent, against the float model's outputs."""

    description, metric = "closeness to float", "closeness"

    def __init__(self, model: ir.Model, feed: Feed) -> None:
        self.feed, self.expected, self.calls = feed, runtime(model, feed)[0], 0

    def score(self, predict: Any, progress: Progress) -> float:
        self.calls += 1
        error = np.abs(predict(self.feed)["y"] - self.expected).sum()
        return float(100 - 100 * error / np.abs(self.expected).sum())


def scored(max_drop: float) -> tuple[PassResult, Closeness]:
    model = spoilt_net()
    feed = spoilt_data(model)
    evaluation = Closeness(model, feed)
    with_score = PassContext(
        calibration=ArraySamples("test data", feed, input_specs(model)), evaluation=evaluation
    )
    step = Quantize(max_drop=max_drop, canonicalize=False)
    return step.run(model, with_score), evaluation


def test_the_score_of_an_evaluation_decides() -> None:
    result, evaluation = scored(5)
    assert floating(result) == {"a"}
    assert result.unmet is None
    search = result.details["search"]
    assert search["least"] == pytest.approx(95)
    assert 95 <= search["figure"] < 100
    assert search["figure_all_quantized"] < 95
    assert evaluation.calls == search["choices_measured"] + 1  # and the float model
    nothing, _ = scored(100)
    assert floating(nothing) == set()
    missed, _ = scored(0)
    assert missed.unmet is not None
    assert "closeness" in missed.unmet
    assert len(floating(missed)) == 3


def test_options_are_checked() -> None:
    for text in ("max_drop=-1", "max_drop=nan", "max_drop=inf", "min_sqnr=nan", "min_sqnr=inf"):
        with pytest.raises(GraphoptError, match="must be a number"):
            parse(f"quantize{{{text}}}")
    with pytest.raises(GraphoptError, match="exclude each other"):
        parse("quantize{max_drop=1,min_sqnr=30}")
    assert Need.EVALUATION in Quantize(max_drop=1).required()
    assert Need.EVALUATION not in Quantize(min_sqnr=1).required()
    model = spoilt_net()
    with pytest.raises(GraphoptError, match=r"needs an evaluation; give labelled data .*--eval"):
        graphopt.optimize(model, "quantize{max_drop=1}", calibration="random")
    with pytest.raises(GraphoptError, match="max_drop needs an evaluation"):
        Quantize(max_drop=1).run(model, context(model, data(model)))


def test_the_same_bytes_each_time() -> None:
    model = spoilt_net()
    feed = spoilt_data(model)
    first, second = (quantize(model, feed, min_sqnr=38) for _ in range(2))
    assert serialized(first.model) == serialized(second.model)
    assert first.details == second.details
    assert first.notes == second.notes


def test_too_few_samples_to_hold_any_out() -> None:
    model = net("y = Conv (x, w)", w=(8, 4, 3, 3))
    result = quantize(model, data(model, count=3), min_sqnr=20)
    assert result.details["sensitivity"]["samples"] == 3
    assert any("too few samples to hold any out" in note for note in result.notes)
    assert not any("too few" in note for note in everywhere().notes)


def test_a_model_without_layers_meets_anything() -> None:
    model = net("y = Relu (x)")
    result = quantize(model, data(model, count=COUNT), min_sqnr=100)
    assert not result.modified
    assert result.unmet is None


def judged(body: str, changed: str, outputs: str) -> float:
    """The figure of a net with `changed` as its body."""
    models = [net(text, "float[N, 4] x", outputs) for text in (body, changed)]
    samples = ArraySamples("test data", data(models[0], count=20), input_specs(models[0]))
    return Judge(models[0], samples).sqnr(models[1])


HALF = "h = Constant <value_float = 0.5> () "


@pytest.mark.parametrize(
    ("body", "changed", "outputs", "expected"),
    [
        ("y = Neg (x)", "y = Neg (x)", "float[N, 4] y", np.inf),
        # an error of half the value: 10 log10(1 / 0.25)
        ("y = Identity (x)", HALF + "y = Mul (x, h)", "float[N, 4] y", 6.0206),
        # the worst of two
        (
            "y = Identity (x) z = Neg (x)",
            HALF + "y = Identity (x) z = Mul (x, h)",
            "float[N, 4] y, float[N, 4] z",
            -3.5218,
        ),
        # not finite where the float model is
        ("y = Identity (x)", "z = Sub (x, x) y = Div (x, z)", "float[N, 4] y", -np.inf),
        # labels do not count beside numbers, and alone by how many are wrong: here all
        (
            "y = Neg (x) z = ArgMax <axis = 1, keepdims = 0> (x)",
            "y = Neg (x) z = ArgMin <axis = 1, keepdims = 0> (x)",
            "float[N, 4] y, int64[N] z",
            np.inf,
        ),
        (
            "z = ArgMax <axis = 1, keepdims = 0> (x)",
            "z = ArgMin <axis = 1, keepdims = 0> (x)",
            "int64[N] z",
            0.0,
        ),
        # another shape
        (
            "k = ReduceMax <axes = [1], keepdims = 0> (x) g = Constant <value_float = 1.0> () "
            "c = Greater (k, g) y = Compress <axis = 0> (x, c)",
            "y = Identity (x)",
            "float[M, 4] y",
            -np.inf,
        ),
    ],
)
def test_the_figure(body: str, changed: str, outputs: str, expected: float) -> None:
    assert judged(body, changed, outputs) == pytest.approx(expected, abs=1e-3)


def test_samples_are_needed() -> None:
    model = net("y = Neg (x)")
    empty: dict[str, Array] = {"x": np.zeros((0, 4, 8, 8), np.float32)}
    with pytest.raises(GraphoptError, match="holds no samples"):
        Judge(model, ArraySamples("nothing", empty, input_specs(model)))


def test_progress_is_shown() -> None:
    seen: list[tuple[str, int | None]] = []

    class Note(Quiet):
        def track(self, items: Any, description: str, total: int | None = None) -> Any:
            seen.append((description, total))
            yield from items

    model = spoilt_net()
    samples = ArraySamples("test data", spoilt_data(model), input_specs(model))
    Quantize(min_sqnr=30).run(model, PassContext(calibration=samples, progress=Note()))
    assert ("measuring layers", 4) in seen
    assert "choosing layers" in [description for description, _ in seen]
