"""prune-channels: targets, rounds, and the searches for max_drop and latency."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import serialized
from prune_nets import attention, chain, depthwise, grouped, image, joined, noise, shared

from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.evaluation import Predict
from graphopt.ir import measure
from graphopt.pipeline.base import Need
from graphopt.pipeline.text import parse
from graphopt.progress import Progress, Quiet
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels, search, sensitivity
from graphopt_passes.prune_channels.allocation import Ladder
from graphopt_passes.prune_channels.budget import TITLES, Quantity, amount
from graphopt_passes.prune_channels.divergence import divergence
from graphopt_passes.prune_channels.groups import find_groups
from graphopt_passes.prune_channels.run import analyse
from graphopt_passes.prune_channels.scores import score


def branches() -> ir.Model:
    """A loud branch and one that hardly counts, summed; then a layer behind both."""
    net, x = image(kind=onnx.TensorProto.FLOAT)
    loud = net.conv(net.node("Relu", net.conv(x, (3, 16), name="loud")), (16, 12))
    quiet = net.conv(net.node("Relu", net.conv(x, (3, 16), name="quiet")), (16, 12))
    quiet = net.node("Mul", quiet, net.constant(0.01))
    x = net.node("Relu", net.node("Add", loud, quiet))
    x = net.node("Relu", net.conv(x, (12, 16), name="behind"))
    return net.build(net.head(x, 16, classes=4))


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return branches()


@pytest.fixture(scope="module")
def context(model: ir.Model) -> PassContext:
    return noise(model, 64)


def kept(details: Any) -> dict[str, int]:
    return {row["group"]: row["kept"] for row in details["groups"]}


@pytest.mark.parametrize("quantity", TITLES)
def test_a_share_and_a_number_are_reached_and_hardly_passed(
    quantity: Quantity, model: ir.Model, context: PassContext
) -> None:
    whole = amount(measure(model), quantity)
    for value, goal in ((0.4, 0.6 * whole), (whole // 2, whole // 2)):
        result = PruneChannels(align=1, **{quantity: value}).run(model, context)
        left = amount(measure(result.model), quantity)
        cost = result.details["cost"][quantity]
        assert result.unmet is None
        assert cost == {"before": whole, "after": left}
        # No single channel of this net is more than a thirteenth of it.
        assert goal - whole / 13 < left <= goal
        assert result.details["target"]["left"] == left
        assert any(f"{left:,} are left" in note for note in result.notes)


def test_channels_go_where_they_hurt_least(model: ir.Model, context: PassContext) -> None:
    result = PruneChannels(macs=0.3, align=1).run(model, context)
    rows = {row["group"]: row for row in result.details["groups"]}
    assert rows["quiet"]["kept"] < 6
    assert rows["loud"]["kept"] > 12
    assert rows["loud"]["sensitivity"] > 10 * rows["quiet"]["sensitivity"] > 0
    assert rows["quiet"]["macs_left"] < rows["quiet"]["macs"] / 2


def test_it_is_better_than_the_same_share_of_each_group(
    model: ir.Model, context: PassContext
) -> None:
    uniform = PruneChannels(ratio=0.3, align=1).run(model, context)
    allocated = PruneChannels(macs=float(measure(uniform.model).macs), align=1).run(model, context)
    assert measure(allocated.model).macs <= measure(uniform.model).macs
    feed = next(iter(noise(model, 128).calibration or ()))
    expected = [Session(model).run(feed)]
    far = [divergence(expected, [Session(r.model).run(feed)]) for r in (uniform, allocated)]
    assert far[1] < 0.7 * far[0]


def test_the_same_again_gives_the_same_bytes(model: ir.Model, context: PassContext) -> None:
    step = PruneChannels(macs=0.5, rounds=2, align=1)
    first, second = (serialized(step.run(branches(), noise(model, 64)).model) for _ in range(2))
    assert first == second


def test_counts_are_aligned_and_the_target_is_reached_all_the_same(
    model: ir.Model, context: PassContext
) -> None:
    result = PruneChannels(macs=0.4, align=4).run(model, context)
    assert all(count % 4 == 0 for count in kept(result.details).values())
    assert measure(result.model).macs <= 0.6 * measure(model).macs
    assert result.unmet is None


@pytest.mark.parametrize("options", [{"macs": 0.95}, {"params": 10.0}, {"bytes": 0.99}])
def test_beyond_the_floor_the_nearest_is_given_and_it_fails(
    options: dict[str, float], model: ir.Model, context: PassContext
) -> None:
    result = PruneChannels(align=1, **options).run(model, context)  # type: ignore[arg-type]
    assert result.modified
    assert set(kept(result.details).values()) == {math.ceil(0.2 * 16), math.ceil(0.2 * 12)}
    ((name, value),) = options.items()
    assert result.unmet is not None
    assert result.unmet.startswith(f"{name}={value:g} asks for ")
    assert "at least 20% of its channels" in result.unmet
    assert result.unmet.endswith("; to cut 10% write params=0.1") is (value == 10.0)


def test_what_the_model_has_not_got_need_not_be_cut(model: ir.Model, context: PassContext) -> None:
    result = PruneChannels(macs=1e9, align=1).run(model, context)
    assert not result.modified
    assert result.unmet is None
    macs = f"{measure(model).macs:,}"
    assert result.notes[-1] == f"macs=1000000000: {macs} MACs, {macs} are left"


def test_without_a_group_to_cut_a_target_fails(model: ir.Model, context: PassContext) -> None:
    result = PruneChannels(macs=0.5, exclude=("*",), align=1).run(model, context)
    assert not result.modified
    assert result.unmet == "macs=0.5: no channels can be cut"
    assert not PruneChannels(ratio=0.5, exclude=("*",), align=1).run(model, context).unmet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ratio=0.5,macs=0.5", "ratio and macs exclude each other; give one of them"),
        ("max_drop=1,latency=0.5", "latency and max_drop exclude each other"),
        ("params=0", "params must be a number above 0, not 0"),
        ("macs=-1", "macs must be a number above 0"),
        ("bytes=nan", "bytes must be a number above 0"),
        ("latency=1", "latency must be above 0 and below 1"),
        ("max_drop=-1", "max_drop must be a number at least 0"),
        ("max_drop=inf", "max_drop must be a number"),
        ("rounds=0", "rounds must be at least 1"),
    ],
)
def test_invalid_targets(options: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        parse(f"prune-channels{{{options}}}")


def test_what_targets_need(model: ir.Model) -> None:
    assert PruneChannels(max_drop=1, align=1).required() == (Need.CALIBRATION, Need.EVALUATION)
    bare: dict[str, Any] = {"score": "l1", "compensate": "none"}
    assert PruneChannels(macs=0.5, **bare, align=1).required() == (Need.CALIBRATION,)
    assert PruneChannels(ratio=0.5, **bare, align=1).required() == ()
    with pytest.raises(GraphoptError, match="needs calibration data"):
        PruneChannels(macs=0.5, **bare, align=1).run(model, PassContext())
    with pytest.raises(GraphoptError, match="max_drop needs an evaluation"):
        PruneChannels(max_drop=1, align=1).run(model, noise(model, 16))


@pytest.mark.parametrize("options", ["latency=0.5", "macs=0.5"])
def test_a_model_that_cannot_run_cannot_be_measured(options: str) -> None:
    net, x = image(kind=onnx.TensorProto.FLOAT)
    x = net.conv(net.conv(x, (3, 8)), (8, 8))
    own = net.node("Own", x, domain="my.domain")
    built = net.build(own, net.head(x, 8), domains=("my.domain",), check=False) if own else None
    assert built is not None
    text = f"prune-channels{{{options},score=l1,compensate=none}}"
    with pytest.raises(GraphoptError, match="ONNX Runtime cannot run the model"):
        parse(text).steps[0].run(built, noise(built, 16))  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{"macs": 0.5}, {"params": 0.5}, {"ratio": 0.4}])
def test_rounds_go_all_the_way_and_leave_a_model_that_agrees(
    options: dict[str, float], model: ir.Model, context: PassContext
) -> None:
    once = PruneChannels(align=1, **options).run(model, context)  # type: ignore[arg-type]
    result = PruneChannels(align=1, **options, rounds=3).run(model, context)  # type: ignore[arg-type]
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    counts = kept(result.details)
    weights = result.model.graph.initializers
    for name in ("loud", "quiet", "behind"):
        value = weights[f"{name}.weight"].const_value
        assert value is not None
        assert value.shape[0] == counts[name]
    if "ratio" in options:
        assert counts == kept(once.details)
    else:
        ((name, _),) = options.items()
        cost = result.details["cost"][name]
        assert cost["after"] <= 0.5 * cost["before"]
    assert result.details["self_check"]["worst"] < 1e-5


@pytest.mark.parametrize("build", [grouped, depthwise, joined, shared, attention])
@pytest.mark.parametrize("options", [{"macs": 0.6}, {"ratio": 0.6}])
def test_rounds_follow_channels_wherever_they_go(build: Any, options: dict[str, Any]) -> None:
    """The self-check of each round would raise; the last model is compared with its own cut."""
    net = build(kind=onnx.TensorProto.FLOAT)
    result = PruneChannels(align=1, **options, rounds=3).run(net, noise(net, 32))
    once = PruneChannels(align=1, **options).run(net, noise(net, 32))
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    Session(result.model).run({name: a[:2] for name, a in Likeness(net, 8).feed.items()})
    for row in result.details["groups"]:
        assert row["macs_left"] <= row["macs"]
    if "ratio" in options:
        assert kept(result.details) == kept(once.details)
    cost = result.details["cost"]["macs"]
    assert cost["after"] == measure(result.model).macs
    assert sum(row["kept"] < row["channels"] for row in result.details["groups"]) > 0


def test_each_round_measures_the_model_as_it_then_is(
    model: ir.Model, context: PassContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = sensitivity.measure_groups

    def spy(current: ir.Model, *rest: Any, **more: Any) -> Any:
        seen.append(measure(current).macs)
        return real(current, *rest, **more)

    monkeypatch.setattr("graphopt_passes.prune_channels.stages.measure_groups", spy)
    PruneChannels(macs=0.5, rounds=2, align=1).run(model, context)
    whole = measure(model).macs
    assert len(seen) == 2
    assert seen[0] == whole
    assert 0.6 * whole < seen[1] <= math.sqrt(0.5) * whole


class Likeness:
    """Scores how often a model agrees with the one that it was made with, in per cent."""

    description, metric = "noise", "agreement"

    def __init__(self, model: ir.Model, count: int = 512) -> None:
        self.samples = noise(model, count).calibration
        assert isinstance(self.samples, ArraySamples)
        self.feed = {
            name: np.concatenate([sample[name] for sample in self.samples])
            for name in next(iter(self.samples))
        }
        self.labels = next(iter(Session(model).run(self.feed).values())).argmax(1)

    def score(self, predict: Predict, progress: Progress) -> float:
        output = next(iter(predict(self.feed).values()))
        return float((output.argmax(1) == self.labels).mean() * 100)


def test_max_drop_finds_a_cut_that_keeps_the_score(model: ir.Model, context: PassContext) -> None:
    scored = PassContext(calibration=context.calibration, evaluation=Likeness(model))
    result = PruneChannels(max_drop=4, samples=64, align=1).run(model, scored)
    found = result.details["search"]
    assert result.unmet is None
    assert found["before"] == 100
    assert len(found["trials"]) == search.STEPS
    best = max(row["share_of_macs_cut"] for row in found["trials"] if row["met"])
    cost = result.details["cost"]["macs"]
    assert best <= 1 - cost["after"] / cost["before"] < best + 1 / 13
    assert best > 0.2
    worse = [row for row in found["trials"] if row["figure"] < 96]
    assert not any(row["met"] for row in worse)
    assert Likeness(model).score(Session(result.model).run, Quiet()) >= 96
    assert any("of the MACs cut, agreement" in note for note in result.notes)


def test_a_drop_that_no_cut_keeps_gives_what_comes_nearest(
    model: ir.Model, context: PassContext
) -> None:
    class Strict(Likeness):
        def score(self, predict: Predict, progress: Progress) -> float:
            output = next(iter(predict(self.feed).values()))
            exact = next(iter(Session(model).run(self.feed).values()))
            return -float(np.abs(output - exact).max())

    scored = PassContext(calibration=context.calibration, evaluation=Strict(model))
    result = PruneChannels(max_drop=0, samples=64, align=1).run(model, scored)
    trials = result.details["search"]["trials"]
    assert result.modified
    assert not any(row["met"] for row in trials)
    nearest = max(row["figure"] for row in trials)
    assert Strict(model).score(Session(result.model).run, Quiet()) == pytest.approx(nearest)
    assert result.unmet is not None
    assert result.unmet.startswith("no cut keeps max_drop=0: ")


def fake_clock(monkeypatch: pytest.MonkeyPatch, fixed: float) -> None:
    """A run takes `fixed` of the time of the model in any case, the rest as MACs say."""

    def latencies(models: list[ir.Model], feed: Any) -> list[float]:
        macs = [measure(m).macs for m in models]
        return [fixed + (1 - fixed) * n / macs[0] for n in macs]

    monkeypatch.setattr(search, "latencies", latencies)


def test_latency_is_measured_and_reached(
    model: ir.Model, context: PassContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_clock(monkeypatch, 0.5)
    result = PruneChannels(latency=0.2, align=1).run(model, context)
    timed = result.details["latency"]
    assert result.unmet is None
    assert 0.72 < timed["after_ms"] <= 0.8
    assert timed["before_ms"] == 1
    assert any("a run of one sample in ONNX Runtime took 1 ms" in note for note in result.notes)


def test_a_latency_out_of_reach_fails_with_the_fastest_model(
    model: ir.Model, context: PassContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_clock(monkeypatch, 0.9)
    result = PruneChannels(latency=0.5, align=1).run(model, context)
    assert result.unmet is not None
    assert result.unmet.startswith("latency=0.5: a run of one sample")
    assert len(result.details["latency"]["trials"]) == 1
    assert set(kept(result.details).values()) == {4, 3}


def test_latency_is_measured_for_real(model: ir.Model, context: PassContext) -> None:
    feed = {name: array[:1] for name, array in Likeness(model, 8).feed.items()}
    times = search.compared(
        model, PruneChannels(ratio=0.5, align=1).run(model, context).model, feed
    )
    assert all(0 < time < 1000 for time in times)


def test_values_are_measured_alike_whether_or_not_they_can_be_held(
    model: ir.Model, context: PassContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyse(model)
    assert context.calibration is not None
    groups = find_groups(found)
    scores = score(PruneChannels(samples=64), model, found, groups, context)
    ladders = [Ladder.of(group, scores, 1) for group in groups]
    measured = []
    for budget in (1 << 28, 0):
        monkeypatch.setattr(sensitivity, "HELD_BYTES", budget)
        rows = sensitivity.measure_groups(
            model, found, ladders, context.calibration, 64, refit=True, progress=Quiet()
        )
        measured.append([list(row.damages.values()) for row in rows])
    assert measured[0] == measured[1]
    assert all(row == sorted(row) and row[0] >= 0 for row in measured[0])


def test_a_large_model_is_measured_on_fewer_samples() -> None:
    groups = find_groups(analyse(chain()))
    scores = {atom: 1.0 for group in groups for atom in group.atoms.tolist()}
    ladders = [Ladder.of(group, scores, 1) for group in groups]
    judges = [sensitivity._judges(macs, ladders) for macs in (0, 10**9, 10**10, 10**13)]
    assert judges == [128, 128, 16, 8]


def test_refitting_the_readers_makes_a_group_less_sensitive(
    model: ir.Model, context: PassContext
) -> None:
    found = analyse(model)
    assert context.calibration is not None
    groups = find_groups(found)
    scores = score(PruneChannels(samples=64), model, found, groups, context)
    ladders = [Ladder.of(group, scores, 1) for group in groups]
    both = [
        sensitivity.measure_groups(
            model, found, ladders, context.calibration, 64, refit=refit, progress=Quiet()
        )
        for refit in (True, False)
    ]
    for refitted, bare in zip(*both, strict=True):
        most = max(refitted.damages)
        assert refitted.damages[most] < 0.7 * bare.damages[most]


def test_divergence_of_logits_probabilities_and_other_values() -> None:
    logits, other = np.array([[0.0, 0.0]]), np.array([[math.log(3.0), 0.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert divergence([{"y": logits}], [{"y": other}]) == pytest.approx(expected)
    given = [{"y": np.array([[0.5, 0.5]])}], [{"y": np.array([[0.75, 0.25]])}]
    assert divergence(*given) == pytest.approx(expected)
    image = np.arange(8.0).reshape(1, 2, 2, 2)
    assert divergence([{"y": image}], [{"y": 1.1 * image}]) == pytest.approx(0.01)
    assert divergence([{"y": image, "n": np.array([1])}], [{"y": image, "n": np.array([2])}]) == 0
    assert divergence([{"y": image}], [{"y": image * np.nan}]) == math.inf
    assert divergence([{"y": image}], [{"y": image[0]}]) == math.inf
