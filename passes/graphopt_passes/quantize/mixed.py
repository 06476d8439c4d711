"""Which layers stay float: by measurement, the fewest with which the model is good enough.

The noise of quantized layers nearly adds up at the output (on the fixtures, to 1 dB), so those to
leave in float are the noisiest. They are ranked by their noise alone, and the search goes

1. by bisection over the ranking: the least k for which leaving the first k in float is enough,
   while with k - 1 it was measured not to be: at most 2 + log2(layers) models;
2. by refinement, as long as `REFINEMENTS` models last: one of them back to int8, those with the
   most multiply-accumulates first; then one of them in exchange for a cheaper one, if their noise
   does not speak against it. So int8 gets as much of the work as it can.

Every choice that is taken was measured as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

import onnx_ir as ir

from graphopt_passes.quantize.goal import Goal
from graphopt_passes.quantize.sensitivity import Layer

REFINEMENTS = 16
"""So many models are measured, at most, to better a choice that is good enough."""


@dataclass
class Search:
    """A search over choices, each the keys of the layers that stay float.

    Attributes:
        layers: all of them, at least one.
        write: makes the model of a choice.
        figures: the figure of each choice that was measured, in that order.
        best: the choice found.
    """

    layers: list[Layer]
    write: Callable[[frozenset[str]], ir.Model]
    goal: Goal
    figures: dict[frozenset[str], float] = field(default_factory=dict)
    best: frozenset[str] = frozenset()

    @property
    def met(self) -> bool:
        return self.figures[self.best] >= self.goal.least

    @property
    def most(self) -> int:
        """How many models `steps` measures, at most."""
        return 2 + max(len(self.layers) - 1, 1).bit_length() + REFINEMENTS

    def steps(self) -> Iterator[None]:
        """Searches, and comes back after each model that was measured.

        Without int8 anywhere the goal counts as missed: `best` is then what came nearest to it.
        """
        ranked = sorted(self.layers, key=_rank)
        yield from self._try(frozenset())
        if not self.met and len(ranked) > 1:
            yield from self._bisect(ranked)
        if self.met:
            yield from self._refine()
        else:
            self.best = max(self.figures, key=lambda c: (self.figures[c], -len(c)))

    def _bisect(self, ranked: list[Layer]) -> Iterator[None]:
        failing, enough = 0, len(ranked) - 1
        yield from self._try(_keys(ranked[:enough]))
        while self.met and enough - failing > 1:
            middle = (failing + enough) // 2
            choice = _keys(ranked[:middle])
            yield from self._try(choice)
            if self.best == choice:
                enough = middle
            else:
                failing = middle

    def _refine(self) -> Iterator[None]:
        for _ in range(REFINEMENTS):
            choice = next((c for c in self._moves() if c not in self.figures), None)
            if choice is None:
                return
            yield from self._try(choice)

    def _moves(self) -> Iterator[frozenset[str]]:
        """Choices that would be better than the best, the greatest gain first."""
        if not self.best:
            return
        inside = [layer for layer in self.layers if layer.key in self.best]
        outside = [layer for layer in self.layers if layer.key not in self.best]
        for layer in sorted(inside, key=_macs, reverse=True):
            yield self.best - {layer.key}
        too_noisy = min(self._noise(c) for c, f in self.figures.items() if f < self.goal.least)
        pairs = [
            (old, new)
            for old, new in product(inside, outside)
            if _macs(new) < _macs(old) < math.inf
        ]
        for old, new in sorted(pairs, key=lambda pair: _macs(pair[1]) - _macs(pair[0])):
            choice = self.best - {old.key} | {new.key}
            if self._noise(choice) < too_noisy:
                yield choice

    def _noise(self, choice: frozenset[str]) -> float:
        """What the noise of all layers in int8 would be, if it added up."""
        return math.fsum(layer.noise for layer in self.layers if layer.key not in choice)

    def _try(self, choice: frozenset[str]) -> Iterator[None]:
        """Measures a choice, which is taken if it reaches the goal."""
        self.figures[choice] = self.goal.measure(self.write(choice))
        if self.figures[choice] >= self.goal.least:
            self.best = choice
        yield


def _keys(layers: list[Layer]) -> frozenset[str]:
    return frozenset(layer.key for layer in layers)


def _macs(layer: Layer) -> float:
    """Its multiply-accumulates; what is unknown counts as much."""
    return math.inf if layer.macs is None else layer.macs


def _rank(layer: Layer) -> tuple[float, float]:
    """The noisiest come first, by whole decibels; of equal ones those that cost the least."""
    decibels = layer.sqnr_db if math.isinf(layer.sqnr_db) else round(layer.sqnr_db)
    return decibels, _macs(layer)
