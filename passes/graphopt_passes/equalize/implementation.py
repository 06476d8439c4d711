"""What `equalize` does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples
from graphopt.data.parts import split
from graphopt.ir import is_standard
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.targets.quantization import QuantizationRules, quantization_rules
from graphopt_passes.equalize.choice import by_data, by_weights
from graphopt_passes.equalize.groups import Channels, Factors, Group, keeps_bits, rescale
from graphopt_passes.equalize.observe import Observed, Thinned, observe
from graphopt_passes.equalize.readers import Array, Layer, Reader, Skip
from graphopt_passes.quantize.candidates import survey
from graphopt_passes.quantize.placement import place

if TYPE_CHECKING:
    from graphopt_passes.equalize import Equalize

WATCHED = 64
"""How many samples the peaks of channels come from, at most."""
JUDGED = 32
"""On how many samples factors are chosen, and on how many others they must prove themselves."""
LEAST_GAIN = 0.1
"""The part of the error that must go."""
SWEEPS = 20
"""How often the groups are gone through without data, at most: neighbours change each other."""
LEAST_SPREAD = 16
"""Without data, a group is left alone if its factors would differ by less: the peaks of weights are
a poor guess at those of data, and every net has some spread."""

Row = dict[str, Any]


def run(options: Equalize, model: ir.Model, context: PassContext) -> PassResult:
    """Runs the pass; see `Equalize`."""
    result, rows = equalize(model, context, context.calibration, options.samples)
    kept = sum(row["kept"] for row in rows)
    rewrites = {"rescaled-group": kept} if kept else {}
    return PassResult(result, kept > 0, rewrites, summary(rows), {"groups": rows})


def summary(rows: Sequence[Row]) -> tuple[str, ...]:
    """A note on the groups that were rescaled, if there are any."""
    kept = sum(row["kept"] for row in rows)
    if not kept:
        return ()
    return (f"rescaled {kept} of {len(rows)} groups of channels for quantization",)


def equalize(
    model: ir.Model,
    context: PassContext,
    samples: Samples | None,
    limit: int | None = None,
    *,
    rules: QuantizationRules | None = None,
    method: str = "mse",
    layers: Collection[str] | None = None,
) -> tuple[ir.Model, list[Row]]:
    """`model` with rescaled channels, as another model if any were, and a row for each group.

    Args:
        model: the model as it is to be quantized; it is not changed.
        samples: to judge by; without, the weights alone decide.
        limit: how many of them to use, at most.
        rules: how it will be quantized; by default, in int8 as the target wants it.
        method: how ranges will be chosen; see `graphopt.calibration.choose_range`.
        layers: the nodes that will be quantized, by the names of their first outputs; by default,
            all that the rules speak of.

    Raises:
        GraphoptError: if the target has no rules for quantization, or a tensor takes a value on
            the samples that is NaN or infinite.
    """
    rules = rules or quantization_rules(context.target.family)
    copy = model.clone()
    floating = {
        node: "left in float"
        for node in copy.graph
        if layers is not None and node.outputs and node.outputs[0].name not in layers
    }
    found, _ = survey(copy, rules, floating)
    channels = Channels(copy, context.analyses.facts(copy))
    readers: list[Reader] = [Layer(c, channels, rules) for c in found if not c.given]
    for value, uses in place(copy, found, rules, floating).tensors.items():
        sums = [node for node, _ in uses if is_standard(node, *rules.additions)]
        readers += [Skip(node, value, channels, rules) for node in sums]
    readers = [reader for reader in readers if reader.numbers.any()]
    if not readers:
        return model, []
    if samples is None:
        factors, rows = _by_weights(channels, readers)
    else:
        judge = _Judge(copy, channels, readers, _parts(samples, limit), context, method)
        factors, rows = _by_data(channels, readers, judge)
    if not rescale(copy, channels, factors):
        return model, rows
    return copy, rows


def _by_weights(channels: Channels, readers: Sequence[Reader]) -> tuple[Factors, list[Row]]:
    factors = np.ones(channels.count)
    work = _work(channels, readers)
    for _ in range(SWEEPS):
        before = factors
        for group, own in work:
            new = by_weights(group, own, channels, factors)
            change = (new / factors)[group.channels]
            if change.max() >= LEAST_SPREAD * change.min() and keeps_bits(channels, group, new):
                factors = new
        if np.array_equal(before, factors):
            break
    return factors, [_row(group, own, factors, "weights") for group, own in work]


def _by_data(
    channels: Channels, readers: Sequence[Reader], judge: _Judge
) -> tuple[Factors, list[Row]]:
    factors = np.ones(channels.count)
    rows = []
    for group, own in _work(channels, readers):
        tried = {
            name: other
            for name, other in by_data(group, own, judge.seen, factors).items()
            if keeps_bits(channels, group, other)
        }
        before = judge.fit(own, factors)
        errors = {name: judge.fit(own, other) for name, other in tried.items()}
        name = min(errors, key=lambda name: errors[name].by_channel, default=None)
        if name is None or errors[name].by_channel > before.by_channel * (1 - LEAST_GAIN):
            rows.append(_row(group, own, factors, None) | {"reason": "nothing would be gained"})
            continue
        held = judge.held_out(own, factors), judge.held_out(own, tried[name])
        measured = {"error_before": held[0].whole, "error_after": held[1].whole}
        if held[1].is_less_than(held[0]):
            factors = tried[name]
            rows.append(_row(group, own, factors, name) | measured)
        else:
            reason = f"'{name}' does not help on samples that were held out"
            rows.append(_row(group, own, factors, None) | measured | {"reason": reason})
    return factors, rows


def _work(channels: Channels, readers: Sequence[Reader]) -> list[tuple[Group, list[Reader]]]:
    """The groups that something reads, each with that."""
    own = channels.by_group((reader, reader.numbers) for reader in readers)
    return [(group, each) for group, each in zip(channels.groups, own, strict=True) if each]


def _row(group: Group, readers: Sequence[Reader], factors: Factors, how: str | None) -> Row:
    own = factors[group.channels]
    return {
        "group": group.name,
        "channels": len(own),
        "read_by": [reader.name for reader in readers],
        "kept": bool(np.any(own != 1)),
        "how": how,
        "factor_min": float(own.min()),
        "factor_max": float(own.max()),
    }


@dataclass(frozen=True)
class _Loss:
    """Errors of layers, summed: channel by channel, and of the whole output of each."""

    by_channel: float
    whole: float

    def is_less_than(self, other: _Loss) -> bool:
        least = 1 - LEAST_GAIN
        return self.by_channel < other.by_channel * least and self.whole < other.whole * least


class _Judge:
    """Measures what quantizing costs layers for given factors."""

    def __init__(
        self,
        model: ir.Model,
        channels: Channels,
        readers: Sequence[Reader],
        parts: tuple[Samples, Samples],
        context: PassContext,
        method: str,
    ) -> None:
        numbers: dict[str, NDArray[np.int64]] = {r.value: r.numbers for r in readers}
        self.seen: Mapping[str, Observed]
        self.seen, held = (
            observe(model, numbers, Thinned(part, most), channels.count, JUDGED, context.progress)
            for part, most in zip(parts, (WATCHED, JUDGED), strict=True)
        )
        self._fit = {name: seen.kept for name, seen in self.seen.items()}
        self._held_out = {name: seen.kept for name, seen in held.items()}
        self._method = method

    def fit(self, readers: Sequence[Reader], factors: Factors) -> _Loss:
        return self._loss(readers, factors, self._fit)

    def held_out(self, readers: Sequence[Reader], factors: Factors) -> _Loss:
        return self._loss(readers, factors, self._held_out)

    def _loss(
        self, readers: Sequence[Reader], factors: Factors, data: Mapping[str, list[Array]]
    ) -> _Loss:
        errors = []
        for reader in readers:
            grid = reader.grid(self._fit[reader.value], factors, self._method)
            errors.append(reader.error(data[reader.value], factors, grid))
        return _Loss(sum(e.by_channel for e in errors), sum(e.whole for e in errors))


def _parts(samples: Samples, limit: int | None) -> tuple[Samples, Samples]:
    """Samples to fit on and to judge by; the same if there are too few for both."""
    return split(samples, limit) or (samples, samples)
