"""The layers that `quantize` leaves in float, by measurement, and what it tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.data.feeds import Samples
from graphopt.data.parts import Part, split
from graphopt.pipeline.base import PassContext
from graphopt.pipeline.notes import listed
from graphopt_passes.quantize.goal import Goal, goal_of
from graphopt_passes.quantize.judge import Judge
from graphopt_passes.quantize.mixed import Search
from graphopt_passes.quantize.quantizer import Quantizer
from graphopt_passes.quantize.sensitivity import Layer, measure_layers

if TYPE_CHECKING:
    from graphopt_passes.quantize import Quantize


@dataclass(frozen=True)
class Choice:
    """What was chosen. The default is no layer in float, without a measurement.

    Attributes:
        floating: the layers that stay float, by `key_of`.
        details: for the report: the sensitivity of each layer and the course of the search.
        notes: sentences for the user.
        unmet: see `PassResult`.
    """

    floating: frozenset[str] = frozenset()
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unmet: str | None = None


def measures(options: Quantize) -> bool:
    """Whether `choose_floating` has anything to measure."""
    return options.sensitivity or options.max_drop is not None or options.min_sqnr is not None


def parts(options: Quantize, samples: Samples) -> tuple[Samples, Samples]:
    """The samples to calibrate on, and those to measure on: others, if there are enough."""
    halves = split(samples, options.samples) if measures(options) else None
    return halves or (samples, samples)


def choose_floating(
    quantizer: Quantizer, held_out: Samples | None, context: PassContext, options: Quantize
) -> Choice:
    """Measures layers and chooses as `options` demand.

    Args:
        quantizer: calibrated for any choice.
        held_out: the samples to measure on; see `parts`. Without, nothing is measured.
    """
    if held_out is None or not (measures(options) and quantizer.candidates):
        return Choice()
    judge = Judge(quantizer.model, held_out)
    layers = measure_layers(quantizer, judge, context.progress)
    everywhere = judge.sqnr(quantizer.write().model)
    goal = goal_of(
        options.min_sqnr,
        options.max_drop,
        quantizer.model,
        judge,
        context,
        where="pass 'quantize'",
    )
    search = None if goal is None else _searched(quantizer, layers, goal, context)
    floating = frozenset() if search is None else search.best
    worst = sorted(layers, key=lambda layer: layer.sqnr_db)
    data = quantizer.rules.numbers.data
    notes = [
        f"{data} everywhere: {everywhere:.1f} dB at the output, on {judge.samples} "
        f"samples of {held_out.description}; the most sensitive layers alone: {_listed(worst)}"
    ]
    if not isinstance(held_out, Part):
        notes.append("too few samples to hold any out: measured on those that it calibrated on")
    rows = _rows(layers, floating, data)
    details: dict[str, Any] = {
        "sensitivity": {
            "data": held_out.description,
            "samples": judge.samples,
            "everywhere_db": everywhere,
            "layers": rows,
        }
    }
    if search is None:
        return Choice(floating, details, tuple(notes))
    details["search"] = _course(search)
    if floating:
        chosen = [layer for layer in worst if layer.key in floating]
        notes.append(f"left in float, to reach {search.goal.demand}: {_listed(chosen)}")
    outcome = _outcome(search)
    if not search.met:
        return Choice(floating, details, tuple(notes), unmet=outcome)
    return Choice(floating, details, (*notes, outcome))


def _searched(
    quantizer: Quantizer, layers: list[Layer], goal: Goal, context: PassContext
) -> Search:
    search = Search(layers, lambda choice: quantizer.write(choice).model, goal)
    for _ in context.progress.track(search.steps(), "choosing layers", search.most):
        pass
    return search


def _outcome(search: Search) -> str:
    """One line on what the search came to."""
    goal, count = search.goal, len(search.layers)
    found = (
        f"{len(search.best)} of {count} layers in float, {goal.shown(search.figures[search.best])}"
    )
    effort = f"choices measured: {len(search.figures)}, single layers: {count}"
    if search.met:
        share = _share(search)
        work = "" if share is None else f", {share:.1%} of the multiply-accumulates quantized"
        return f"{found}{work} ({effort})"
    return f"no choice of layers reaches {goal.demand}; the nearest has {found} ({effort})"


def _course(search: Search) -> dict[str, Any]:
    figures = search.figures
    return {
        "demand": search.goal.demand,
        "least": search.goal.least,
        "met": search.met,
        "figure": figures[search.best],
        "figure_all_quantized": figures[frozenset()],
        "layers_in_float": len(search.best),
        "share_of_macs_quantized": _share(search),
        "choices_measured": len(figures),
        "choices_at_most": search.most,
    }


def _share(search: Search) -> float | None:
    """The share of the layers' multiply-accumulates in integers; None if one is not known."""
    macs = {layer.key: layer.macs for layer in search.layers}
    known = {key: value for key, value in macs.items() if value is not None}
    if len(known) < len(macs) or not sum(known.values()):
        return None
    return sum(v for k, v in known.items() if k not in search.best) / sum(known.values())


def _rows(layers: list[Layer], floating: frozenset[str], quantized: str) -> list[dict[str, Any]]:
    return [
        {
            "node": layer.node,
            "op_type": layer.op_type,
            "macs": layer.macs,
            "sqnr_db": layer.sqnr_db,
            "precision": "float" if layer.key in floating else quantized,
        }
        for layer in layers
    ]


def _listed(layers: list[Layer]) -> str:
    return listed([f"'{layer.node}' {layer.sqnr_db:.1f} dB" for layer in layers])
