"""The steps of prune-channels, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import check, infer_shapes, named_nodes
from graphopt.pipeline.base import PassContext, PassResult
from graphopt.reconstruction import Refit
from graphopt.targets import Pace
from graphopt_passes.prune_channels import telling
from graphopt_passes.prune_channels.apply import cut_channels
from graphopt_passes.prune_channels.canonical import canonical
from graphopt_passes.prune_channels.compensate import compensate
from graphopt_passes.prune_channels.facts import choose_sizes, gather_facts
from graphopt_passes.prune_channels.groups import Cut, find_groups
from graphopt_passes.prune_channels.heads import turn_heads
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.listing import list_groups
from graphopt_passes.prune_channels.reaching import Choice, reach
from graphopt_passes.prune_channels.rules_layout import RULES as LAYOUT
from graphopt_passes.prune_channels.rules_linear import RULES as LINEAR
from graphopt_passes.prune_channels.rules_pointwise import RULES as POINTWISE
from graphopt_passes.prune_channels.rules_sequence import RULES as SEQUENCE
from graphopt_passes.prune_channels.selfcheck import self_check
from graphopt_passes.prune_channels.stages import Pruned, Stage, Task
from graphopt_passes.prune_channels.sweep import Sweep
from graphopt_passes.prune_channels.targets import Target

if TYPE_CHECKING:
    from graphopt.data.feeds import Samples
    from graphopt_passes.prune_channels import PruneChannels

RULES = {**LINEAR, **POINTWISE, **LAYOUT, **SEQUENCE}


def prune(options: PruneChannels, model: ir.Model, context: PassContext) -> PassResult:
    """What `PruneChannels.run` does."""
    _require_data(options, context)
    named_nodes(model, options.exclude, where="pass 'prune-channels'")
    target = Target.of(options)
    task = _prepared(options, model, context)
    first = Stage(task, task.teacher, task.found)
    if options.groups:
        samples = context.calibration
        table = list_groups(task.teacher, task.found, task.groups, first.scores.raw, samples)
        return PassResult(model, False, details={"groups": table})
    notes = [*telling.of_kept(task.found), *telling.of_scores(first)]
    if not first.scored:
        reason = telling.why_nothing(task, target)
        unmet = None if target.kind == "ratio" else f"{target}: {reason}"
        return PassResult(model, False, notes=(reason, *notes), unmet=unmet)
    reached = reach(target, task, first, lambda choice: _in_rounds(task, first, choice))
    pruned = reached.pruned
    notes += [*telling.of_cut(task, pruned), *reached.notes]
    details = telling.details(task, first, pruned, target) | reached.details
    if not pruned.cut.gone.any():
        nothing = () if reached.notes else (telling.why_nothing(task, target),)
        return PassResult(
            model, False, notes=(*nothing, *notes), details=details, unmet=reached.unmet
        )
    check(pruned.model, where="prune-channels")
    rewrites = {
        "groups cut": sum(pruned.cut.touches(group.atoms) for group in task.groups),
        "channels cut": sum(len(g.atoms) - pruned.cut.count(g.atoms) for g in task.groups),
        "layers refitted": len(pruned.refit.layers),
    }
    return PassResult(pruned.model, True, rewrites, tuple(notes), details, unmet=reached.unmet)


def _in_rounds(task: Task, first: Stage, choice: Choice) -> Pruned:
    """Cuts part of the way in each round, and refits what is left to give what the teacher gave."""
    samples, rounds = task.context.calibration, task.options.rounds
    stage = first
    pruned = Pruned(first.model, first.gone, None, Refit())
    for number in range(1, rounds + 1):
        cut = choice(stage, number / rounds)
        if not cut.gone.any():
            continue
        model, gone = cut_channels(stage.model, stage.found, cut), stage.merged(cut)
        outcome = self_check(stage.model, model, stage.found, cut, stage.groups, samples)
        pruned = Pruned(model, gone, outcome, _refitted(task, model, gone))
        if number < rounds:
            stage = Stage(
                task, model, analyse(model, samples, task.options.exclude, task.options.heads), gone
            )
    return pruned


def _refitted(task: Task, model: ir.Model, gone: Cut) -> Refit:
    """Refits `model`, in place, which lacks the channels `gone` of the teacher."""
    samples, options = task.context.calibration, task.options
    if options.compensate == "none" or samples is None:
        return Refit()
    return compensate(
        task.teacher,
        model,
        task.found,
        gone,
        samples,
        options.samples,
        task.context.progress,
        options.compensate,
    )


def _prepared(options: PruneChannels, model: ir.Model, context: PassContext) -> Task:
    """The model ready to be cut, and what is known of it."""
    teacher = canonical(model)
    infer_shapes(teacher)
    samples = context.calibration
    found = analyse(teacher, samples, options.exclude, options.heads)
    refits = options.compensate != "none" and not options.groups
    # Turned, the dimensions of heads differ in worth, and are cut one by one.
    if (
        refits
        and samples is not None
        and turn_heads(teacher, found, samples, options.samples, context.progress)
    ):
        found = analyse(teacher, samples, options.exclude, options.heads)
    _state_types(teacher, found)
    align = _alignment(options, context)
    return Task(
        options,
        context,
        teacher,
        found,
        find_groups(found),
        align=align,
        pace=_pace(context, align),
        refits=refits,
    )


def analyse(
    model: ir.Model,
    samples: Samples | None = None,
    exclude: tuple[str, ...] = (),
    whole_heads: bool = False,
) -> Labelling:
    """Labels every axis of every tensor of the main graph of `model`, which is not changed.

    Args:
        samples: tell how long free axes other than the first are.
        exclude: what names nodes whose outputs stay whole; see `named_nodes`.
        whole_heads: see `Sweep`.

    Raises:
        GraphoptError: if an axis other than the first is free and there are no samples.
    """
    facts = gather_facts(model, choose_sizes(model, samples))
    return Sweep(model, facts, exclude, whole_heads).run(RULES)


def _state_types(model: ir.Model, found: Labelling) -> None:
    """Lets `model`, this pass's own copy, state the types that the analysis found."""
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in found.facts.types:
                value.type = ir.TensorType(found.facts.types[value.name])


def _require_data(options: PruneChannels, context: PassContext) -> None:
    if context.calibration is None and options.required():
        raise GraphoptError(
            "needs calibration data to score channels and to refit weights",
            where="prune-channels",
            fix="give some, or write prune-channels{score=l1,compensate=none}",
        )


def _alignment(options: PruneChannels, context: PassContext) -> int:
    if options.align is not None:
        return options.align
    if context.target.name == "generic" and Target.of(options).kind == "ratio":
        return 1  # a share of each group is meant as it is said, unless a device is named
    alignment = context.target.alignment
    return alignment.get("fp16", alignment.get("fp32", 1))


def _pace(context: PassContext, align: int) -> Pace | None:
    """That of the target, if counts are such as its kernels take: it is not known of others."""
    pace = context.target.pace
    return None if pace is None or align % pace.block else pace
