"""The search for the layers that stay float, on layers that are only numbers."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from graphopt_passes.quantize.goal import Goal
from graphopt_passes.quantize.mixed import REFINEMENTS, Search
from graphopt_passes.quantize.sensitivity import Layer

Choice = frozenset[str]


def layers(noises: list[float], macs: list[int | None] | None = None) -> list[Layer]:
    macs = [1] * len(noises) if macs is None else macs
    return [
        Layer(f"l{i}", f"l{i}", "Conv", m, -10 * math.log10(n))
        for i, (n, m) in enumerate(zip(noises, macs, strict=True))
    ]


def search(found: list[Layer], least: float, measure: Any = None) -> Search:
    """A finished search; a model is the choice itself, and noises add up unless `measure`."""

    def total(choice: Any) -> float:
        noise = math.fsum(layer.noise for layer in found if layer.key not in choice)
        return -10 * math.log10(noise) if noise else math.inf

    goal = Goal(measure or total, least, "least", str)
    result = Search(found, lambda choice: choice, goal)  # type: ignore[arg-type, return-value]
    steps = sum(1 for _ in result.steps())
    assert steps == len(result.figures) <= result.most
    return result


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_has_fewer_layers(seed: int) -> None:
    generator = np.random.default_rng(seed)
    noises = 10 ** generator.uniform(-6, -2, 9)
    macs = generator.integers(1, 1000, 9).tolist()
    found = layers(noises.tolist(), macs)
    least = float(generator.uniform(25, 55))
    result = search(found, least)
    enough = [
        frozenset(choice)
        for size in range(len(found))
        for choice in combinations((layer.key for layer in found), size)
        if -10 * math.log10(sum(x.noise for x in found if x.key not in choice)) >= least
    ]
    assert result.met == bool(enough)
    if enough:
        assert result.best in enough
        assert len(result.best) == len(min(enough, key=len))


def test_of_equal_choices_the_one_that_leaves_more_work_to_int8() -> None:
    # Either of the first two is enough. The first costs a little more noise, and much more work.
    found = layers([1.1e-3, 1e-3, 1e-5], [1000, 10, 10])
    assert search(found, 29.5).best == {"l1"}
    # By far the noisiest is taken whatever it costs.
    found = layers([1e-1, 1e-3, 1e-5], [1000, 10, 10])
    assert search(found, 29.5).best == {"l0"}
    # An exchange: the third is noisy enough to do in place of the second, and cheap.
    found = layers([1e-2, 4e-3, 2e-3, 1e-5], [10, 1000, 10, 10])
    assert search(found, 23.9).best == {"l0", "l2"}


def test_a_layer_that_need_not_stay_float_is_given_back() -> None:
    found = layers([4e-3, 2e-3, 1e-3, 1e-6], [10, 1000, 10, 10])

    def interacting(choice: Choice) -> float:  # the second does no harm once the third is float
        return 40.0 if {"l0", "l2"} <= choice else 20.0

    result = search(found, 30, interacting)
    assert result.best == {"l0", "l2"}


def test_all_in_int8_takes_one_measurement() -> None:
    result = search(layers([1e-4, 1e-4]), 30)
    assert result.best == frozenset()
    assert len(result.figures) == 1


def test_float_everywhere_does_not_count() -> None:
    result = search(layers([1e-3, 1e-4, 1e-5]), 60)
    assert not result.met
    assert result.best == {"l0", "l1"}
    alone = search(layers([1e-3]), 60)
    assert not alone.met
    assert alone.best == frozenset()


def test_layers_without_a_figure() -> None:
    found = layers([1e-3, 1e-4, 1e-5])
    found[1] = Layer("l1", "l1", "Conv", None, -math.inf)
    found[2] = Layer("l2", "l2", "Conv", 1, math.inf)
    assert search(found, 29).best == {"l1"}
    assert search(found, 50).best == {"l0", "l1"}


def test_the_number_of_measurements_is_bounded() -> None:
    found = layers([1e-3 / (i + 1) for i in range(300)], list(range(1, 301)))
    result = search(found, 40)
    assert result.met
    assert 3 < len(result.figures) <= 2 + 9 + REFINEMENTS
