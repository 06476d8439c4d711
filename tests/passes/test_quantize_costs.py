"""Layers that stay float on a CPU because they are faster there, and what they read then."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from quantize_nets import data, decibels, kernels, net, quantize, runtime

from graphopt.targets.quantization import quantization_rules
from graphopt_passes.quantize.candidates import survey
from graphopt_passes.quantize.cut import SINK, SOURCE, Network
from graphopt_passes.quantize.worth import SLOWER, _Times, shapes_of, slower_layers

RULES = quantization_rules("onnxruntime-cpu")
TARGET = "onnxruntime-cpu"


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_cheaper(seed: int) -> None:
    """All cuts of small random networks, for comparison."""
    generator = np.random.default_rng(seed)
    inner = int(generator.integers(1, 7))
    size = inner + 2
    costs = generator.integers(0, 10, (size, size)) * (generator.random((size, size)) < 0.5)
    network = Network()
    for _ in range(inner):
        network.vertex()
    for tail, head in zip(*np.nonzero(costs), strict=True):
        network.edge(int(tail), int(head), int(costs[tail, head]))

    def cost(left: set[int]) -> int:
        right = [v for v in range(size) if v not in left]
        return int(costs[np.ix_(sorted(left), right)].sum())

    found = network.source_side()
    assert SOURCE in found
    assert SINK not in found
    choices = itertools.product((False, True), repeat=inner)
    sides = [{SOURCE, *(v + 2 for v, taken in enumerate(c) if taken)} for c in choices]
    least = min(map(cost, sides))
    assert cost(found) == least
    assert len(found) == min(len(side) for side in sides if cost(side) == least)


HSWISH = "{1} = HardSigmoid<alpha=0.16666667, beta=0.5>({0}) {2} = Mul({0}, {1})"
BLOCKS = {
    "wide": (
        "float[N, 256, 14, 14] x",
        256,
        "a = Conv(x, w) r = Relu(a) b = Conv(r, v) y = Tanh(b)",
    ),
    "depthwise": (
        "float[N, 16, 56, 56] x",
        16,
        f"a = Conv(x, w) {HSWISH.format('a', 'b', 'c')} "
        f"d = Conv<group=16, pads=[1, 1, 1, 1]>(c, k) {HSWISH.format('d', 'e', 'f')} "
        "g = Conv(f, v) y = Tanh(g)",
    ),
    "both": (
        "float[N, 128, 28, 28] x",
        128,
        "a = Conv(x, w) r = Relu(a) b = Conv(r, v) s = Tanh(b) "
        "d = Conv<group=128, pads=[1, 1, 1, 1]>(s, k) y = Tanh(d)",
    ),
}


def block(name: str) -> ir.Model:
    given, channels, text = BLOCKS[name]
    shapes = {"w": (channels, channels, 1, 1), "v": (channels, channels, 1, 1)}
    if "k)" in text:
        shapes["k"] = (channels, 1, 3, 3)
    return net(text, given, given.replace("x", "y"), **shapes)


@pytest.mark.parametrize("name", BLOCKS)
def test_no_choice_of_layers_is_faster_by_the_costs(name: str) -> None:
    model = block(name)
    candidates, _ = survey(model, RULES, {})
    assert RULES.costs is not None
    times = _Times(model, candidates, RULES, RULES.costs, set())
    left = slower_layers(model, candidates, RULES, set())
    kept = [candidate for candidate in candidates if candidate not in left]
    choices = itertools.chain.from_iterable(
        itertools.combinations(candidates, n) for n in range(len(candidates) + 1)
    )
    least = min(times.total(times.placed(list(choice))) for choice in choices)
    assert times.total(times.placed(kept)) <= 1.05 * least


@pytest.mark.parametrize(
    ("name", "floating"), [("wide", set()), ("depthwise", {"a", "d", "g"}), ("both", {"d"})]
)
def test_what_is_slower_in_integers_stays_float(name: str, floating: set[str]) -> None:
    model = block(name)
    result = quantize(model, target=TARGET, islands=False)
    reasons = {row["node"]: row["reason"] for row in result.details["float"]}
    assert {key for key, reason in reasons.items() if reason == SLOWER} == floating
    assert result.modified == (name != "depthwise")
    everywhere = quantize(model, target=TARGET, islands=True)
    assert SLOWER not in [row["reason"] for row in everywhere.details["float"]]


def test_free_axes_are_guessed_and_unknown_shapes_leave_all_in_integers() -> None:
    model = block("wide")
    assert shapes_of(model)[model.graph.inputs[0]] == (1, 256, 14, 14)
    free = net("a = Relu(x) y = Tanh(a)", "float[N, 3, H, W] x", "float[N, 3, H, W] y")
    assert shapes_of(free)[free.graph[0].outputs[0]] == (1, 3, 224, 224)
    odd = net("a = Mul(x, c) y = Tanh(a)", "float[N, 3, H, W] x", c=(1, 3, 7, 1))
    assert odd.graph[0].outputs[0] not in shapes_of(odd)


CHAIN = "a = Conv(x, w) r = Relu(a) b = Conv(r, v, q) s = Relu(b) c = Conv(s, u) y = Tanh(c)"
GEMMS = (
    "a = Gemm(x, w) r = Relu(a) b = Gemm<transB=1>(r, v, q) s = Relu(b) c = Gemm(s, u) y = Tanh(c)"
)


@pytest.mark.parametrize("text", [CHAIN, GEMMS, CHAIN.replace("b = Conv", "b = ConvTranspose")])
def test_a_layer_left_in_float_is_float_with_optimizations_too(text: str, tmp_path: Path) -> None:
    """ONNX Runtime would quantize its weight, by one scale for all of it."""
    tail = [] if "Gemm" in text else [1, 1]
    given = f"float[N, 8{', 6, 6' if tail else ''}] x"
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, 8, *tail)).astype(np.float32)
    weight *= (4.0 ** -np.arange(8)).reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float32)
    model = net(
        text, given, given.replace("x", "y"), w=(8, 8, *tail), v=weight, u=(8, 8, *tail), q=(8,)
    )
    result = quantize(model, target=TARGET, exclude=("b",) if "Transpose" not in text else ())
    feed = data(model)
    (off, *_), (on, *_) = runtime(result.model, feed), runtime(result.model, feed, optimize=True)
    assert decibels(off, on) > 50
    found = kernels(result.model, tmp_path)
    assert any(
        name in ("Conv", "FusedConv", "Gemm", "FusedGemm", "ConvTranspose") for name in found
    )
