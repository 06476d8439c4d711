"""Quantizing copies of one model: what costs time, watching tensors, is done once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration import Histogram, Range, collect
from graphopt.calibration.range_file import TensorRange, load_ranges
from graphopt.calibration.ranges import PERCENT
from graphopt.data.feeds import Samples
from graphopt.errors import GraphoptError
from graphopt.ir import Names, constant_array
from graphopt.pipeline.base import PassContext
from graphopt.quantization import get_format
from graphopt.targets.quantization import QuantizationRules, quantization_rules
from graphopt_passes.quantize.candidates import Candidate, survey
from graphopt_passes.quantize.existing import require_fit
from graphopt_passes.quantize.gates import gate_grid
from graphopt_passes.quantize.grids import Grid, choose_data_range, grid_of
from graphopt_passes.quantize.islands import ALONE, islands
from graphopt_passes.quantize.placement import Placement, place, reachable
from graphopt_passes.quantize.rewrite import write_data, write_weights
from graphopt_passes.quantize.selection import select
from graphopt_passes.quantize.squeezes import NARROW, narrow_squeezes
from graphopt_passes.quantize.weights import QuantizedWeight
from graphopt_passes.quantize.worth import SLOWER, slower_layers
from graphopt_passes.quantize_weights.left import Left

if TYPE_CHECKING:
    from graphopt_passes.quantize import Quantize

REDUCED_BITS = 1
"""How many bits of a weight `reduce_range` leaves out."""


def key_of(node: ir.Node) -> str:
    """What a node is called in every copy of its model: the name of its first output."""
    return str(node.outputs[0].name)


@dataclass(frozen=True)
class Quantized:
    """A model with its pairs, and what was decided on the way."""

    model: ir.Model
    candidates: list[Candidate]
    declined: list[Left]
    placement: Placement
    grids: dict[ir.Value, Grid]
    """The scale and zero point of each tensor of the placement."""
    weights: dict[ir.Node, QuantizedWeight]
    """The weight of each candidate's node."""


class Quantizer:
    """A float model, and all that is needed to quantize any choice of its layers.

    A layer is a node that the target computes in integers; it goes by `key_of`.
    """

    def __init__(
        self,
        model: ir.Model,
        options: Quantize,
        context: PassContext,
        original: ir.Model | None = None,
    ) -> None:
        """Surveys `model`, which is canonical and is not changed.

        Args:
            original: the model that the names in the options are from, if it is another.

        Raises:
            GraphoptError: if the target has no rules, an option names a node that is not there, or
                what is quantized in the model already does not fit the target.
        """
        self.model = model
        self.rules: QuantizationRules = quantization_rules(context.target.family, options.format)
        self._options = options
        self._context = context
        require_fit(model, self.rules)
        self._excluded: set[str] = set()
        self._left: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self._choose(original or model)
        self.candidates, self.declined = self._survey(model)
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[str, TensorRange] = {}

    def _choose(self, original: ir.Model) -> None:
        """Reads the options that leave layers in float."""
        options = self._options
        excluded = select("exclude", options.exclude, original, self.model, self.rules)
        self._excluded = {key_of(node) for node in excluded.nodes if node.outputs}
        self._left = dict.fromkeys(self._excluded, "excluded")
        gone = [("exclude", pattern) for pattern in excluded.gone]
        if options.include:
            included = select("include", options.include, original, self.model, self.rules)
            gone += [("include", pattern) for pattern in included.gone]
            for node in self.model.graph:
                if node.outputs and node not in included.nodes:
                    self._left.setdefault(key_of(node), "not included")
        self.notes = tuple(
            f"{option}: nothing is left of '{pattern}' once the model is simplified"
            for option, pattern in gone
        )
        if not options.islands:
            candidates, _ = self._survey(self.model)
            excluded_nodes = _named(self.model, self._excluded)
            narrow = narrow_squeezes(candidates, self.rules)
            self._leave(narrow, NARROW)
            kept = [c for c in candidates if key_of(c.node) not in self._left]
            if self.rules.costs is None:
                self._leave(islands(self.model, kept, self.rules, excluded_nodes), ALONE)
            else:
                slower = slower_layers(self.model, kept, self.rules, excluded_nodes)
                self._leave(slower, SLOWER)

    def _leave(self, candidates: list[Candidate], reason: str) -> None:
        self._left |= {key_of(candidate.node): reason for candidate in candidates}

    def _survey(
        self, model: ir.Model, floating: Collection[str] = ()
    ) -> tuple[list[Candidate], list[Left]]:
        reasons = {**dict.fromkeys(floating, "left in float"), **self._left}
        left = {
            node: reasons[key_of(node)]
            for node in model.graph
            if node.outputs and key_of(node) in reasons
        }
        return survey(model, self.rules, left)

    @property
    def layers(self) -> list[str]:
        """The layers that can be quantized, in the order of the graph."""
        return [key_of(candidate.node) for candidate in self.candidates]

    @property
    def has_work(self) -> bool:
        """Whether anything is to be quantized that is not quantized already."""
        return any(not c.given for c in self.candidates) or not self._place(self.model).is_empty()

    def _place(self, model: ir.Model) -> Placement:
        return place(model, self.candidates, self.rules, _named(model, self._excluded))

    def calibrate(
        self, samples: Samples | None, *, any_choice: bool = False
    ) -> Mapping[str, Histogram]:
        """Watches the tensors that `write` will quantize, by name; or reads their ranges.

        Args:
            samples: None if the ranges are all in the file that the context names.
            any_choice: also those that come into question only if some layers stay float.

        Returns:
            What they were seen to take on; nothing if their ranges were read.

        Raises:
            GraphoptError: if one is NaN or infinite on the samples, or the file of ranges is not
                for this model.
        """
        chosen = (
            reachable(self.model, self.candidates, self.rules, _named(self.model, self._excluded))
            if any_choice
            else self._place(self.model).tensors
        )
        names = [str(value.name) for value in chosen]
        context = self._context
        if context.ranges is not None and context.ranges.exists():
            self._ranges = load_ranges(context.ranges, self.model, names)
        elif names:  # none, if only weights are to be quantized
            if samples is None:
                raise GraphoptError(
                    "needs calibration data", where="pass 'quantize'", fix="give --calib SOURCE"
                )
            self._histograms = collect(
                self.model,
                names,
                samples,
                context.progress,
                limit=self._options.samples,
                jobs=context.jobs,
                backend=context.backend,
            )
        return self._histograms

    @property
    def has_read_ranges(self) -> bool:
        """Whether the ranges are those of a file."""
        return bool(self._ranges)

    def write(self, floating: Collection[str] = ()) -> Quantized:
        """A copy of the model with all layers but `floating` quantized. `calibrate` comes first.

        Raises:
            GraphoptError: if a weight is NaN or infinite.
        """
        model = self.model.clone()
        candidates, declined = self._survey(model, floating)
        excluded = _named(model, self._excluded | set(floating))
        placement = place(model, candidates, self.rules, excluded)
        grids = self._grids(placement)
        names = Names(model)
        layers = {candidate.node for candidate in candidates}
        write_data(model, names, placement, grids, self.rules, layers)
        weights = write_weights(
            model, names, candidates, self.rules, _data_scales(candidates), self.weight_limits
        )
        return Quantized(model, candidates, declined, placement, grids, weights)

    def _grids(self, placement: Placement) -> dict[ir.Value, Grid]:
        """The grid of each tensor; equal within a group."""
        grids: dict[ir.Value, Grid] = {}
        numbers = self.rules.numbers
        for group in placement.groups:
            is_gate = any(value.producer() in placement.gates for value in group)
            kept = None if is_gate else self._range([str(value.name) for value in group])
            for value in group:
                dtype = placement.dtypes[value].numpy()
                grids[value] = (
                    gate_grid(numbers, dtype) if kept is None else grid_of(kept, numbers, dtype)
                )
        return grids

    def _range(self, names: list[str]) -> Range:
        """The range that the tensors `names` share."""
        if self._ranges:
            return Range.covering(self._ranges[name].range for name in names)
        merged = Histogram.merge_all(self._histograms[name] for name in names)
        options = self._options
        return choose_data_range(
            merged, options.method, self.rules.numbers, options.percent or PERCENT
        )

    @property
    def weight_limits(self) -> tuple[int, int]:
        """The least and the greatest value of a weight."""
        low, high = get_format(self.rules.numbers.weight).symmetric_limits
        if not self._options.reduce_range:
            return low, high
        return -(high >> REDUCED_BITS), high >> REDUCED_BITS


def _named(model: ir.Model, keys: Collection[str]) -> set[ir.Node]:
    return {node for node in model.graph if node.outputs and key_of(node) in keys}


def _data_scales(candidates: list[Candidate]) -> dict[ir.Node, np.ndarray[Any, Any]]:
    """The scale of the data of each of `candidates` that has a bias to store in int32."""
    scales = {}
    for candidate in candidates:
        if candidate.bias is None:
            continue
        data = candidate.node.inputs[candidate.rule.data]
        dequantize = None if data is None else data.producer()
        scale = None if dequantize is None else constant_array(dequantize.inputs[1])
        assert scale is not None
        scales[candidate.node] = scale.reshape(())
    return scales
