"""Recovery of accuracy: every step is kept only where it helps on samples that are held out.

In the order of the graph, on the model as it is by then:

- the scale of each tensor of data is the one with the least error a few layers behind;
- each layer's weight and bias are refitted, so that on what the quantized model feeds it, the
  layer gives what it gives in the float model: least squares, with the solution rounded so that
  the outputs change least (GPTQ, Frantar et al. 2022; the target is that of channel pruning by
  He et al. 2017), weight scales by squared error, and the mean error taken out by the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Samples
from graphopt.ir import Names, is_standard, label
from graphopt.progress import Progress
from graphopt.reconstruction import MAX_INPUTS
from graphopt.runtime.difference import Comparer
from graphopt.runtime.session import Session
from graphopt_passes.quantize.quantizer import Quantized, Quantizer, key_of
from graphopt_passes.quantize.recovery.evidence import QuantizedSides
from graphopt_passes.quantize.recovery.layers import IntegerLayer, IntegerWeight
from graphopt_passes.quantize.recovery.ranges import Pair
from graphopt_passes.quantize.recovery.refit import Problem, better

if TYPE_CHECKING:
    from graphopt_passes.quantize import Quantize


@dataclass(frozen=True)
class Steps:
    """What may be changed: scales of data, weights, biases."""

    scales: bool = True
    rounding: bool = True
    bias: bool = True

    @staticmethod
    def of(options: Quantize, *, scales: bool = True) -> Steps:
        """What `options` allow; `scales` says whether those of data may be touched at all."""
        tune = scales and options.tune_ranges
        return Steps(tune, options.round_weights, options.correct_bias)


@dataclass
class Recovery:
    """What was changed.

    Attributes:
        rows: for the report, one for each tensor and layer that was looked at.
        notes: sentences for the user.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)
    """By the key of its QuantizeLinear, what the scale of a tensor is multiplied with."""
    weights: dict[str, IntegerWeight] = field(default_factory=dict)
    """The new weight of a layer, by its key; its integers in int8."""


def recover(
    quantizer: Quantizer,
    quantized: Quantized,
    samples: Samples,
    steps: Steps,
    progress: Progress,
    limit: int | None = None,
) -> Recovery:
    """Changes `quantized`, in place, where that brings it nearer to the float model.

    Args:
        quantizer: what it was made by, from the float model.
        samples: a part of them is held out to judge by.
        limit: the number of samples to use, at most.

    Raises:
        GraphoptError: if what a layer reads or gives is NaN or infinite somewhere.
    """
    recovery, reference, limits = Recovery(), quantizer.model, quantizer.weight_limits
    if not any((steps.scales, steps.rounding, steps.bias)):
        return recovery
    if samples.is_random:
        recovery.notes.append("no recovery of accuracy: it would fit the weights to random samples")
        return recovery
    trial = quantized.model.clone()
    try:
        sides = QuantizedSides(reference, trial, samples, limit)
    except ValueError as error:
        recovery.notes.append(f"no recovery of accuracy: {error}")
        return recovery
    search = _Search(quantized, trial, sides, limits, steps, recovery)
    nodes = search.nodes()
    for number, node in enumerate(progress.track(nodes, "recovering accuracy", len(nodes))):
        search.visit(node, number)
    if not (recovery.factors or any(row["kept"] for row in recovery.rows)):
        recovery.notes.append("recovery: nothing is better than what there was")
        return recovery
    before, after = (_noise(reference, m, sides) for m in (quantized.model, trial))
    if not after < before:
        recovery.notes.append(
            "recovery: better layer by layer, but not at the outputs of the model "
            f"({_decibel(before)} -> {_decibel(after)} dB on held-out samples); it is left out"
        )
        for row in recovery.rows:
            row["kept"] = []
        return recovery
    _apply(quantized, recovery)
    kept = [row for row in recovery.rows if row["kept"]]
    recovery.notes.append(
        f"recovery: {len(recovery.factors)} scales of data and "
        f"{len(kept) - len(recovery.factors)} layers changed; the signal-to-noise ratio of the "
        f"outputs {_decibel(before)} -> {_decibel(after)} dB on held-out samples"
    )
    return recovery


class _Search:
    """One walk through the trial model, which is changed on the way."""

    def __init__(
        self,
        quantized: Quantized,
        trial: ir.Model,
        sides: QuantizedSides,
        limits: tuple[int, int],
        steps: Steps,
        recovery: Recovery,
    ) -> None:
        self.layers = {key_of(c.node): c for c in quantized.candidates if not c.given}
        self.trial = trial
        self.sides = sides
        self.limits = limits
        self.steps = steps
        self.recovery = recovery
        self._names = Names(trial)
        self._integer = {n for n in trial.graph if n.outputs and key_of(n) in self.layers}
        self._alone = {str(g[0].name) for g in quantized.placement.groups if len(g) == 1}
        self._fixed: set[ir.Node] = set()
        """Layers that cannot follow if the scale of their data changes."""
        self._declined: dict[ir.Node, str] = {}
        for node in self._integer:
            reason = self._why_not(node)
            if reason is not None:
                self._declined[node] = reason

    def _why_not(self, node: ir.Node) -> str | None:
        twin, rule = self.sides.twin(node), self.layers[key_of(node)].rule
        return IntegerLayer.declines(node, twin, rule)

    def nodes(self) -> list[ir.Node]:
        """What is visited, in order."""
        return [
            node
            for node in self.trial.graph
            if node in self._integer or (self.steps.scales and is_standard(node, "QuantizeLinear"))
        ]

    def visit(self, node: ir.Node, number: int) -> None:
        if node not in self._integer:
            self._tune(node)
        elif node in self._declined:
            self._report(node, [], reason=self._declined[node])
        else:
            self._refit(node, number)

    def _tune(self, node: ir.Node) -> None:
        pair = Pair.of(node)
        source = node.inputs[0]
        if pair is None or source is None or source.name not in self._alone:
            return
        for reader, _ in pair.dequantize.outputs[0].uses():
            if reader in self._declined and len(reader.inputs) > 2:
                return  # its bias, in int32, could not follow
        found = self.sides.tune(pair, self._integer)
        if found is None:
            return
        factor, before, after = found
        if factor != 1.0:
            self.recovery.factors[key_of(node)] = factor
            _scale(pair, factor)
        self._report(node, ["range"] if factor != 1.0 else [], before, after, factor=factor)

    def _refit(self, node: ir.Node, number: int) -> None:
        key = key_of(node)
        candidate, twin = self.layers[key], self.sides.twin(node)
        assert twin is not None
        layer = IntegerLayer(node, twin, candidate.rule, candidate.axis)
        evidence = self.sides.evidence(layer, twin, number)
        if evidence.is_empty:
            self._report(node, [], reason="it computes nothing on these samples")
            return
        problem = Problem(
            layer.weight(),
            layer.reference(),
            self.limits,
            layer.least_scale(),
            layer.dtype,
            rounding=self.steps.rounding,
            shifts=self.steps.bias and layer.can_shift,
        )
        choice = better(problem, evidence)
        layer.write(self._names, choice.weight)
        stored = choice.weight.integers.astype(np.int8)
        self.recovery.weights[key] = replace(choice.weight, integers=stored)
        reason = None
        if evidence.fit.xx is None and self.steps.rounding:
            reason = f"more than {MAX_INPUTS} inputs: only its bias can be corrected"
        self._report(node, list(choice.kept), choice.before, choice.after, reason=reason)

    def _report(
        self,
        node: ir.Node,
        kept: list[str],
        before: float | None = None,
        after: float | None = None,
        **more: Any,
    ) -> None:
        row: dict[str, Any] = {"node": label(node), "op_type": node.op_type, "kept": kept}
        row |= {"error_before": before, "error_after": after}
        self.recovery.rows.append(row | {k: v for k, v in more.items() if v is not None})


def _scale(pair: Pair, factor: float) -> None:
    tensor = pair.scale.const_value
    assert tensor is not None
    array = tensor.numpy()
    pair.scale.const_value = ir.tensor(
        np.asarray(array * array.dtype.type(factor)), name=pair.scale.name
    )


def _apply(quantized: Quantized, recovery: Recovery) -> None:
    """Makes the changes of `recovery` in the model itself, and in what is known of it."""
    grids = {str(value.name): value for value in quantized.grids}
    names = Names(quantized.model)
    candidates = {key_of(c.node): c for c in quantized.candidates}
    for node in list(quantized.model.graph):
        key = key_of(node) if node.outputs else ""
        if key in recovery.factors:
            pair, factor = Pair.of(node), recovery.factors[key]
            assert pair is not None
            assert pair.scale.const_value is not None
            _scale(pair, factor)
            source = node.inputs[0]
            assert source is not None
            value = grids[str(source.name)]
            grid = quantized.grids[value]
            low, high = grid.limits
            quantized.grids[value] = replace(
                grid, scale=pair.scale.const_value.numpy(), limits=(low * factor, high * factor)
            )
        elif key in recovery.weights:
            candidate = candidates[key]
            layer = IntegerLayer(node, node, candidate.rule, candidate.axis)
            weight = recovery.weights[key]
            weight = replace(weight, integers=weight.integers.astype(np.float64))
            quantized.weights[node] = layer.write(names, weight)


def _noise(reference: ir.Model, model: ir.Model, sides: QuantizedSides) -> float:
    """The squared error of the outputs relative to their squares, on held-out samples; the mean."""
    sessions = Session(reference), Session(model)
    comparer = Comparer()
    for feed in sides.held_out_feeds():
        comparer.add(*(session.run(feed) for session in sessions))
    ratios = [10 ** (-difference.sqnr_db / 10) for difference in comparer.result()]
    return sum(ratios) / len(ratios) if ratios else 0.0


def _decibel(noise: float) -> str:
    return f"{-10 * math.log10(noise):.1f}" if noise else "inf"
