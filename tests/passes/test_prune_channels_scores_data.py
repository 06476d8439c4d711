"""Scores from calibration data: greedy reconstruction error, and Taylor expansion."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from prune_nets import Net, chain, image, noise, random_feed, weight

from graphopt import GraphoptError, PassContext
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import input_specs
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels, run
from graphopt_passes.prune_channels.groups import find_groups
from graphopt_passes.prune_channels.scores import Scores, obs, score, taylor
from graphopt_passes.prune_channels.scores.removal import Problem, removal_costs

DATA = ["activation", "obs", "taylor"]


def scored(model: ir.Model, name: Any, samples: Any = None) -> tuple[Scores, Any]:
    context = noise(model, 16)
    if samples is not None:
        context = PassContext(calibration=ArraySamples("given", samples, input_specs(model)))
    found = run.analyse(model, context.calibration)
    groups = find_groups(found)
    return score(PruneChannels(score=name), model, found, groups, context), groups


def problem(
    random: np.random.Generator, rows: list[np.ndarray], inputs: int = 12
) -> tuple[Any, ...]:
    """A layer of correlated inputs and 5 outputs, with its Gram matrix and output energy."""
    x = random.standard_normal((100, 6)) @ random.standard_normal((6, inputs))
    x += 0.3 * random.standard_normal((100, inputs))
    w = random.standard_normal((inputs, 5))
    gram = x.T @ x / len(x)
    return gram, w, rows, float(np.trace(w.T @ gram @ w))


def best_error(gram: np.ndarray, w: np.ndarray, gone: list[int]) -> float:
    """The least |X W - X W0|^2 + lambda |W - W0|^2 without the inputs `gone`, by brute force."""
    hessian = gram + 1e-2 * np.diag(gram).mean() * np.eye(len(gram))
    keep = [i for i in range(len(gram)) if i not in gone]
    new = np.zeros_like(w)
    new[keep] = np.linalg.solve(hessian[np.ix_(keep, keep)], hessian[keep] @ w)
    return float(np.trace((new - w).T @ hessian @ (new - w)))


def test_removals_are_those_of_brute_force() -> None:
    """Two readers, of which one does not read the last set, and sets of one and two inputs."""
    random = np.random.default_rng(0)
    sets = [np.array([2 * i, 2 * i + 1]) for i in range(5)] + [np.array([10]), np.array([11])]
    given = [problem(random, sets), problem(random, [*sets[:6], np.zeros(0, dtype=np.int64)])]
    costs = removal_costs([Problem(*args) for args in given], len(sets), portion=1000)

    def total(gone: list[int]) -> float:
        errors = 0.0
        for gram, w, rows, energy in given:
            errors += best_error(gram, w, [i for n in gone for i in rows[n].tolist()]) / energy
        return errors

    left, gone, error, least = list(range(len(sets))), [], 0.0, 0.0
    while left:
        rises = {n: total([*gone, n]) - error for n in left}
        cheapest = min(left, key=lambda n: rises[n])
        least = max(least, rises[cheapest])
        assert abs(costs[cheapest] - least) <= 1e-7 * max(least, 1e-3)
        error += rises[cheapest]
        gone.append(cheapest)
        left.remove(cheapest)
    assert np.argsort(costs).tolist() == gone


def test_a_few_at_a_time_is_close_to_one_at_a_time() -> None:
    random = np.random.default_rng(1)
    rows = [np.array([i]) for i in range(200)]
    gram, w, rows, energy = problem(random, rows, inputs=200)
    one, few = (
        removal_costs([Problem(gram, w, rows, energy)], 200, portion=portion)
        for portion in (1000, 64)
    )
    first = set(np.argsort(one)[:100].tolist())
    assert len(first & set(np.argsort(few)[:100].tolist())) >= 95


def test_an_input_that_is_always_zero_costs_nothing() -> None:
    gram, w, rows, energy = problem(np.random.default_rng(2), [np.array([i]) for i in range(12)])
    gram[4] = gram[:, 4] = 0
    costs = removal_costs([Problem(gram, 1000 * w, rows, 1e6 * energy)], 12)
    assert costs[4] == 0
    assert np.count_nonzero(costs) == 11
    nothing = removal_costs([Problem(np.zeros((12, 12)), w, rows, 0.0)], 12)
    assert np.array_equal(nothing, np.zeros(12))


def copies() -> ir.Model:
    """Four channels: the first two are loud and the same, the others quiet."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("MatMul", net.input("batch", 6), net.weight(6, 4, name="maker"), name="maker")
    model = net.build(net.linear(net.node("Relu", x), 4, 8, name="reader"))
    maker = weight(model, "maker").copy()
    maker[:, :2] = 3 * maker[:, :1]
    model.graph.initializers["maker"].const_value = ir.tensor(maker, name="maker")
    return model


def test_obs_does_without_a_copy_first() -> None:
    """Activation keeps both copies, for both are loud."""
    model = copies()
    order = {}
    for name in ("obs", "activation"):
        scores, groups = scored(model, name)
        order[name] = sorted(groups[0].atoms.tolist(), key=lambda atom: scores[atom])
    loud = set(groups[0].atoms.tolist()[:2])
    assert order["obs"][0] in loud
    assert not {*order["activation"][:2]} & loud


def test_obs_leaves_readers_that_are_too_large_to_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = chain()
    monkeypatch.setattr(obs, "MAX_INPUTS", 89)
    scores, groups = scored(model, "obs")
    reason = "its reader 'second' has 90 inputs, more than 89"
    assert scores.notes == (f"group 'first' is scored by 'activation': {reason}",)
    other = scored(model, "activation")[0]
    assert all(scores.raw[atom] == other.raw[atom] for atom in groups[0].atoms.tolist())


def test_gram_matrices_are_held_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain()
    whole = scored(model, "obs")[0]
    monkeypatch.setattr(obs, "GRAM_BYTES", 1)
    assert scored(model, "obs")[0] == whole


@pytest.mark.parametrize("kind", ["transposed", "shared"])
def test_obs_tells_which_reader_cannot_be_refitted(kind: str) -> None:
    net, x = image(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.conv(x, (3, 8), name="first"))
    if kind == "transposed":
        y = net.node("ConvTranspose", x, net.weight(8, 4, 3, 3), name="reader")
    else:
        shared = net.weight(4, 8, 1, 1)
        y = net.node("Conv", x, shared, name="reader")
        y = net.node("Add", y, net.node("Conv", net.node("Tanh", x), shared, name="other"))
    scores, groups = scored(net.build(y), "obs")
    (note,) = scores.notes
    assert note.startswith("group 'first' is scored by 'activation': its reader 'reader' cannot be")
    assert all(atom in scores for atom in groups[0].atoms.tolist())


@pytest.mark.parametrize("groups", [2, 4])
def test_obs_of_grouped_convolutions(groups: int) -> None:
    """The channels at one place of each group go together; those that are silent cost nothing."""
    net, x = image(kind=TensorProto.FLOAT)
    x = net.conv(x, (3, 8), name="first")
    x = net.conv(net.node("Relu", x), (8, 8), group=groups, name="grouped")
    model = net.build(net.head(net.node("Relu", x), 8))
    (conv,) = (node for node in model.graph if node.name == "first")
    weights, bias = conv.inputs[1], conv.inputs[2]
    assert weights is not None
    assert bias is not None
    maker = weight(model, "first.weight").copy()
    maker[1 :: 8 // groups] = 0
    weights.const_value = ir.tensor(maker, name=weights.name)
    below = -np.abs(weight(model, str(bias.name)))
    bias.const_value = ir.tensor(below, name=bias.name)
    scores, found = scored(model, "obs")
    assert not scores.notes
    values = [scores.raw[atom] for atom in found[0].atoms.tolist()]
    assert len(values) == 8 // groups
    assert values[1] == 0
    assert np.count_nonzero(values) == len(values) - 1


def two_readers() -> ir.Model:
    """In float64: channels that a Gemm, a product and (after an Add) another Gemm read."""
    net = Net(kind=TensorProto.DOUBLE)
    x = net.node("Gemm", net.input("batch", 5), net.weight(5, 6), net.weight(6), name="maker")
    x = net.node("Sigmoid", x, name="hidden")
    left = net.node("MatMul", x, net.weight(6, 6, name="left"), name="left")
    y = net.node("Add", net.node("Tanh", left), x)
    return net.build(net.node("Gemm", y, net.weight(6, 3, name="right"), name="right"))


def gated(model: ir.Model, gates: np.ndarray) -> ir.Model:
    """`model` with the rows of both readers times `gates`."""
    copy = model.clone()
    for name in ("left", "right"):
        array = gates[:, None] * weight(model, name)
        copy.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return copy


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each sample."""
    exponents = np.exp(logits)
    return -np.log(exponents[np.arange(len(labels)), labels] / exponents.sum(1))


def test_taylor_is_the_derivative_by_a_gate() -> None:
    """The hidden channels are tied over the Add: both readers count, with their signs."""
    model = two_readers()
    feed = random_feed(model, 7)
    scores, groups = scored(model, "taylor", feed)
    (group,) = groups
    (logits,) = Session(model).run(feed).values()
    labels = logits.argmax(1)
    for place, atom in enumerate(group.atoms.tolist()):
        losses = []
        for step in (1e-5, -1e-5):
            gates = np.ones(6)
            gates[place] += step
            (moved,) = Session(gated(model, gates)).run(feed).values()
            losses.append(cross_entropy(moved, labels))
        expected = np.abs((losses[0] - losses[1]) / 2e-5).mean()
        assert abs(scores.raw[atom] - expected) <= 1e-6 * max(expected, 1e-2)


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_taylor_is_the_same_behind_a_softmax(last: str) -> None:
    def build(*, ends: bool) -> ir.Model:
        net = Net(kind=TensorProto.FLOAT)
        x = net.node("Relu", net.linear(net.input("batch", 5), 5, 8, name="hidden"))
        y = net.linear(x, 8, 4, name="head")
        return net.build(net.node(last, y) if ends else y)

    plain, ended = (scored(build(ends=ends), "taylor")[0].raw for ends in (False, True))
    for atom, value in plain.items():
        assert abs(ended[atom] - value) <= 1e-4 * max(plain.values())


def three_axes(batch: Any) -> ir.Model:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.linear(net.input(batch, 3, 5), 5, 8, name="hidden"))
    return net.build(net.linear(x, 8, 4, name="head"))


def test_taylor_where_there_are_no_classes() -> None:
    """The outputs are projected onto random signs: a channel that moves them has a score."""
    model = three_axes("batch")
    scores, groups = scored(model, "taylor", random_feed(model, 50))
    assert not scores.notes
    assert all(scores.raw[atom] > 0 for atom in groups[0].atoms.tolist())


def test_samples_count_alike_however_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, together, or in a fixed batch that the last one is filled up for."""
    monkeypatch.setattr(taylor, "_seed", lambda output, y, rows, number: np.ones_like(y))
    feed = random_feed(three_axes("batch"), 6)
    together, *others = (scored(three_axes(n), "taylor", feed)[0].raw for n in ("batch", 1, 4))
    for raw in others:
        for atom, value in together.items():
            assert abs(raw[atom] - value) <= 1e-5 * max(together.values())


@pytest.mark.parametrize("wall", ["Tan", "Mod"])
def test_taylor_tells_which_operator_is_in_the_way(wall: str) -> None:
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.linear(net.input("batch", 5), 5, 8, name="before"))
    x = net.linear(x, 8, 6, name="between")
    operands = (x,) if wall == "Tan" else (x, net.positive(6))
    rest = {} if wall == "Tan" else {"fmod": 1}
    x = net.node(wall, *operands, name="wall", **rest)
    model = net.build(net.linear(x, 6, 4, name="head"))
    scores, groups = scored(model, "taylor")
    reason = f"there is no gradient through {wall} 'wall'"
    assert scores.notes == (f"group 'before' is scored by 'activation': {reason}",)
    other = scored(model, "activation")[0]
    assert all(scores.raw[atom] == other.raw[atom] for atom in groups[0].atoms.tolist())
    assert any(scores.raw[atom] != other.raw[atom] for atom in groups[1].atoms.tolist())


def test_values_that_are_masked_behind_do_not_matter() -> None:
    """As in attention, where a row of which everything is masked is NaN after Softmax."""
    net = Net(kind=TensorProto.FLOAT)
    x = net.node("Relu", net.linear(net.input("batch", 5), 5, 8, name="hidden"))
    y = net.linear(x, 8, 4, name="head")
    root = net.node("Sqrt", y)  # NaN where y is negative
    bad = net.node("IsNaN", root)
    model = net.build(net.node("Where", bad, net.constant(np.zeros(1, np.float32)), root))
    scores, groups = scored(model, "taylor")
    assert not scores.notes
    assert all(np.isfinite(scores.raw[atom]) for atom in groups[0].atoms.tolist())


@pytest.mark.parametrize("name", DATA)
def test_a_dead_channel_goes_first(name: Any) -> None:
    model = chain()
    first, second = weight(model, "first.weight").copy(), weight(model, "second.weight").copy()
    first[7] = 0
    second[:, 7] *= 100
    (conv,) = (n for n in model.graph if n.name == "first")
    bias = conv.inputs[2]
    assert bias is not None
    offset = weight(model, str(bias.name)).copy()
    offset[7] = 0
    for value, array in ((conv.inputs[1], first), (bias, offset)):
        value.const_value = ir.tensor(array, name=value.name)  # type: ignore[union-attr]
    model.graph.initializers["second.weight"].const_value = ir.tensor(second, name="second.weight")
    scores, groups = scored(model, name)
    values = [scores.raw[atom] for atom in groups[0].atoms.tolist()]
    assert values[7] == 0
    assert min(values[:7] + values[8:]) > 0


@pytest.mark.parametrize("name", DATA)
def test_one_sample_is_enough_to_score(name: Any) -> None:
    model = chain()
    scores, groups = scored(model, name, random_feed(model, 1))
    assert all(np.isfinite(scores[atom]) for group in groups for atom in group.atoms.tolist())


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused(name: Any, bad: float) -> None:
    model = chain()
    feed = random_feed(model, 8)
    feed["x"][7, 0, 0, 0] = bad
    with pytest.raises(GraphoptError, match=r"^tensor '.+': takes NaN or an infinite value"):
        scored(model, name, feed)


@pytest.mark.parametrize("name", DATA)
def test_the_same_data_gives_the_same_scores(name: Any) -> None:
    model = chain()
    assert scored(model, name)[0].raw == scored(model, name)[0].raw
