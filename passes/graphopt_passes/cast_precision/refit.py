"""Weights of the low type that are better than the nearest ones.

Rounding each weight to the nearest number loses most where a layer reads numbers that go together,
or of a large mean, as behind a ReLU: the errors of its products then add up. So the weights of a
layer are rounded together, so that on what the rounded model feeds it the layer gives what it gives
in fp32 (GPTQ, Frantar et al. 2022), and the mean error is taken out by its bias (Nagel et al.
2019). All of it stays in the low type, zeros stay zeros, and no kernel gets slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples
from graphopt.ir import Names, constant_array, is_standard
from graphopt.progress import Progress
from graphopt.reconstruction import (
    Choice,
    Evidence,
    Linear,
    Moments,
    SideBySide,
    adder_behind,
    choose,
    round_to_type,
    set_constant,
)
from graphopt.runtime.tap import NotFiniteError
from graphopt_passes.cast_precision.decide import Decision
from graphopt_passes.cast_precision.low import Array, LowType

RIDGE = 1e-4
"""How much the weights of fp32 count in the fit, relative to the mean variance of the inputs. Few
weights move by more than a step of the type, so it only has to keep the fit well posed."""
LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class LowWeight:
    """A weight of the low type.

    Attributes:
        matrix: [groups, inputs, outputs], of numbers of the type, stored as such or as float64.
        bias: what is added [groups, outputs], float64, of numbers of the type; None if the layer
            has no bias.
        shift: `bias` less what is added in fp32.
    """

    matrix: Array
    bias: Array | None
    shift: Array | None


@dataclass
class Fit:
    """The weights that were found.

    Attributes:
        weights: by the node of the model in fp32.
        before: the signal-to-noise ratio of the outputs on held-out samples, in dB; None if it was
            not measured.
        after: the same with the weights.
        reason: why there are none, though they were looked for.
        not_finite: the layers that read or give NaN or infinite values: nothing can be fitted to
            those, of which the outputs may show nothing.
    """

    weights: dict[ir.Node, LowWeight] = field(default_factory=dict)
    before: float | None = None
    after: float | None = None
    reason: str | None = None
    not_finite: list[ir.Node] = field(default_factory=list)

    def apply(
        self, model: ir.Model, decision: Decision, twins: Mapping[ir.Node, ir.Node] | None = None
    ) -> None:
        """Writes the weights of what is low under `decision` into `model`, of fp32.

        Args:
            twins: its nodes, if `model` is a copy.
        """
        names = Names(model)
        for node, weight in self.weights.items():
            if decision.is_low(node):
                write(names, node, weight, twins or {})


Judge = Callable[[ir.Model, Iterator[Feed]], float]
"""The signal-to-noise ratio of the outputs of a model, in dB."""


def refit(
    model: ir.Model,
    simulated: ir.Model,
    twins: Mapping[ir.Node, ir.Node],
    decision: Decision,
    samples: Samples,
    limit: int,
    judge: Judge,
    progress: Progress,
) -> Fit:
    """Looks for better weights, layer by layer in the order of the graph.

    Args:
        model: in fp32.
        simulated: a copy of it that rounds as `decision` says; its weights are changed.
        twins: its nodes by those of `model`.
        samples: a part of them is held out to judge by.
        limit: the number of samples to use, at most.
    """
    if samples.is_random:
        return Fit(reason="others would be fitted to random samples")
    try:
        sides = SideBySide(model, simulated, samples, limit)
    except ValueError as error:
        return Fit(reason=str(error))
    before = judge(simulated, sides.held_out_feeds())
    fit = Fit()
    names = Names(simulated)
    nodes = [n for n in model.graph if is_standard(n, *LAYERS) and decision.is_low(n)]
    for number, node in enumerate(progress.track(nodes, "fitting weights", len(nodes))):
        linear = Linear.of(node)
        if not isinstance(linear, Linear) or linear.is_scaled:
            continue  # scaled, a weight of the low type is not one of it as it is stored
        layer = _Layer(linear, twins[node], decision)
        try:
            evidence = sides.evidence(layer, node, number)
        except NotFiniteError:
            fit.not_finite.append(node)
            continue
        choice = layer.choose(evidence)
        if choice is not None and choice.kept:
            stored = decision.low.round(choice.weight.matrix)  # exact, and a quarter of the size
            fit.weights[node] = replace(choice.weight, matrix=stored)
            write(names, node, choice.weight, twins)
    if not fit.weights:
        reason = "no layer has others that are better on held-out samples"
        return Fit(reason=reason, not_finite=fit.not_finite)
    after = judge(simulated, sides.held_out_feeds())
    if not after > before:
        reason = "others are no better at the outputs on held-out samples"
        return Fit(reason=reason, not_finite=fit.not_finite)
    return replace(fit, before=before, after=after)


def write(names: Names, node: ir.Node, weight: LowWeight, twins: Mapping[ir.Node, ir.Node]) -> None:
    """Gives `weight` to the twin of the layer `node`, or to itself if it has none.

    Args:
        names: those of the twin's model.
    """
    linear = Linear.of(node)
    assert isinstance(linear, Linear)
    bias = _Bias.of(linear)
    set_constant(names, twins.get(node, node), 1, linear.stored(weight.matrix), "")
    if weight.bias is not None and bias is not None:
        array = weight.bias.reshape(bias.array.shape).astype(bias.array.dtype)
        set_constant(names, twins.get(bias.node, bias.node), bias.index, array, "")


@dataclass(frozen=True)
class _Bias:
    """Where a bias is, one number for each output: an input of the layer or of the Add behind."""

    node: ir.Node
    index: int
    array: Array

    @staticmethod
    def of(linear: Linear) -> _Bias | None:
        node = linear.node
        place = adder_behind(node) if is_standard(node, "MatMul") else (node, 2)
        if place is None or len(place[0].inputs) <= place[1]:
            return None
        array = constant_array(place[0].inputs[place[1]])
        return None if array is None or array.size != linear.bias.size else _Bias(*place, array)


class _Layer:
    """A layer of the model in fp32, and where its twin reads: Y = X W without the bias."""

    def __init__(self, linear: Linear, twin: ir.Node, decision: Decision) -> None:
        data = twin.inputs[0]
        assert data is not None
        self.node = twin
        self.data = str(data.name)
        self.shape = linear.shape
        self.row_count = linear.row_count
        self._linear = linear
        self._low: LowType = decision.low
        bias = _Bias.of(linear)
        self._bias = None
        if bias is not None and decision.reads_low(bias.node, bias.index):
            self._bias = bias.array.astype(np.float64).reshape(linear.bias.shape)

    def rows(self, x: Array, y: Array, rows: Array, /) -> tuple[Array, Array]:
        given, wanted = self._linear.rows(x, y, rows)
        return given, wanted - self._linear.bias[:, None]

    def choose(self, evidence: Evidence) -> Choice[LowWeight] | None:
        """The best weight; None if nothing can be told."""
        if evidence.is_empty:
            return None
        reference = self._linear.matrix
        nearest = self._weight(self._rounded(reference))
        shifted = None if self._bias is None else partial(self._shifted, evidence.fit)
        return choose(nearest, self._trials(nearest, evidence.fit), evidence, shifted)

    def _trials(
        self, nearest: LowWeight, fit: Moments
    ) -> Iterator[tuple[LowWeight, tuple[str, ...]]]:
        yield nearest, ()
        if fit.xx is None:
            return
        centred = self._bias is not None
        weight = self._linear.matrix
        hessian, target = fit.quadratic(weight, centred=centred, ridge=RIDGE)
        zeros = weight == 0  # what was pruned stays so: kernels may count on a pattern of it
        yield self._weight(round_to_type(target, hessian, self._rounded, zeros)), ("rounding",)

    def _weight(self, matrix: Array, shift: Array | None = None) -> LowWeight:
        if self._bias is None:
            return LowWeight(matrix, None, None)
        bias = self._rounded(self._bias if shift is None else self._bias + shift)
        return LowWeight(matrix, bias, bias - self._bias)

    def _shifted(self, fit: Moments, weight: LowWeight) -> LowWeight:
        return self._weight(weight.matrix, fit.bias(weight.matrix))

    def _rounded(self, array: Array) -> Array:
        largest = self._low.largest
        return self._low.round(np.clip(array, -largest, largest)).astype(np.float64)
