"""Quantizing copies of one model: what costs time, watching tensors, is done once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration import Histogram, choose_range, collect
from graphopt.data.feeds import Samples
from graphopt.ir import Names
from graphopt.pipeline.base import PassContext
from graphopt.targets.quantization import QuantizationRules, quantization_rules
from graphopt_passes.quantize.candidates import Candidate, Declined, excluded_nodes, survey
from graphopt_passes.quantize.placement import Placement, place, reachable
from graphopt_passes.quantize.rewrite import write_data, write_weights
from graphopt_passes.quantize.weights import QuantizedWeight, stored_scale

if TYPE_CHECKING:
    from graphopt_passes.quantize import Quantize

Scales = dict[ir.Value, np.ndarray[Any, Any]]


def key_of(node: ir.Node) -> str:
    """What a node is called in every copy of its model: the name of its first output."""
    return str(node.outputs[0].name)


@dataclass(frozen=True)
class Quantized:
    """A model with its pairs, and what was decided on the way."""

    model: ir.Model
    candidates: list[Candidate]
    declined: list[Declined]
    placement: Placement
    scales: Scales
    """The scale of each tensor of the placement, of rank 0 and in its dtype."""
    weights: dict[ir.Node, QuantizedWeight]
    """The weight of each candidate's node."""


class Quantizer:
    """A float model, and all that is needed to quantize any choice of its layers.

    A layer is a node that the target computes in integers; it goes by `key_of`.
    """

    def __init__(self, model: ir.Model, options: Quantize, context: PassContext) -> None:
        """Surveys `model`, which is canonical and is not changed.

        Raises:
            GraphoptError: if the target has no rules, or an option names a node that is not there.
        """
        self.model = model
        self.rules: QuantizationRules = quantization_rules(context.target.family)
        self._options = options
        self._context = context
        self._excluded = excluded_nodes(model, options.exclude)
        self.candidates, self.declined = survey(model, self.rules, self._excluded)
        self._histograms: dict[str, Histogram] = {}

    @property
    def layers(self) -> list[str]:
        """The layers that can be quantized, in the order of the graph."""
        return [key_of(candidate.node) for candidate in self.candidates]

    def calibrate(self, samples: Samples, *, any_choice: bool = False) -> Mapping[str, Histogram]:
        """Watches the tensors that `write` will quantize, by name.

        Args:
            any_choice: also those that come into question only if some layers stay float.
        """
        chosen = (
            reachable(self.model, self.candidates, self.rules, self._excluded)
            if any_choice
            else place(self.model, self.candidates, self.rules, self._excluded).tensors
        )
        self._histograms = collect(
            self.model,
            [str(value.name) for value in chosen],
            samples,
            self._context.progress,
            limit=self._options.samples,
        )
        return self._histograms

    def write(self, floating: Collection[str] = ()) -> Quantized:
        """A copy of the model with all layers but `floating` quantized. `calibrate` comes first.

        Raises:
            GraphoptError: if a weight is NaN or infinite.
        """
        model = self.model.clone()
        excluded = excluded_nodes(model, self._options.exclude)
        excluded |= {node for node in model.graph if node.outputs and key_of(node) in floating}
        candidates, declined = survey(model, self.rules, excluded)
        placement = place(model, candidates, self.rules, excluded)
        scales = self._scales(placement)
        names = Names(model)
        weights = write_weights(model, names, candidates, self.rules.weight_limits)
        write_data(model, names, placement, scales)
        return Quantized(model, candidates, declined, placement, scales, weights)

    def _scales(self, placement: Placement) -> Scales:
        """The scale of each tensor; equal within a group."""
        scales: Scales = {}
        levels = self.rules.data_limits[1]
        for group in placement.groups:
            merged = Histogram.merge_all(self._histograms[str(value.name)] for value in group)
            threshold = choose_range(merged, self._options.method, levels)
            for value in group:
                scales[value] = stored_scale(threshold / levels, placement.dtypes[value].numpy())
        return scales
