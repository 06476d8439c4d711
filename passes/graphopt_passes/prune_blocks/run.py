"""From options to a search, and from its outcome to a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.data.parts import split
from graphopt.errors import GraphoptError
from graphopt.ir import check, named_nodes
from graphopt.pipeline.base import Declined, PassContext, PassResult
from graphopt.pipeline.notes import listed
from graphopt.pipeline.runner import run
from graphopt.pipeline.text import parse
from graphopt_passes.prune_blocks.search import Search
from graphopt_passes.prune_blocks.survey import Priced, Survey
from graphopt_passes.quantize.goal import goal_of
from graphopt_passes.quantize.judge import Judge

if TYPE_CHECKING:
    from graphopt_passes.prune_blocks import PruneBlocks

WHERE = "pass 'prune-blocks'"
TIDY = "eliminate-noops"


def prune(options: PruneBlocks, model: ir.Model, context: PassContext) -> PassResult:
    """What `PruneBlocks.run` does."""
    samples = context.calibration
    if samples is None:
        raise GraphoptError("needs calibration data", where=WHERE, fix="give --calib SOURCE")
    survey = Survey(model, samples, named_nodes(model, options.exclude, where=WHERE))
    facts = context.analyses.facts(model)
    blocks, declined = survey.blocks(model, facts)
    targeted = options.max_drop is not None or options.min_sqnr is not None
    if not blocks:
        return _nothing(model, declined, options.n)
    most = options.n or (len(blocks) if targeted else 1)
    if most > len(blocks) and not targeted:
        raise GraphoptError(
            f"n={most}, but only {len(blocks)} residual blocks can be dropped",
            where=WHERE,
            fix=f"give n of at most {len(blocks)}",
        )
    notes = []
    compensate = options.compensate
    if samples.is_random and compensate != "none":
        compensate = "none"
        notes.append("nothing makes up for what is dropped: it would be fitted to random samples")
    halves = split(samples, options.samples)
    if halves is None:
        notes.append("too few samples to hold any out: measured on those that it is fitted to")
    fit, held_out = halves or (samples, samples)
    judge = Judge(model, held_out)
    search = Search(model, survey, fit, judge, compensate, context.progress)
    priced = survey.priced(model, blocks, facts)
    goal = goal_of(options.min_sqnr, options.max_drop, model, judge, context, where=WHERE)
    missed = search.run(most, priced, goal)
    notes.append(_outcome(search, priced, held_out.description))
    if goal is not None and missed is not None:
        notes.append(f"one more would not meet {goal.demand}: {goal.shown(missed)}")
    notes += _refit_notes(search)
    details = _details(search, priced)
    near = tuple(declined)
    if not search.dropped:
        return PassResult(model, False, {}, tuple(notes), details, near)
    # Where a block was, an activation may follow itself.
    tidied = run(parse(TIDY), search.model, context, any_order=True)
    check(tidied.model, where=WHERE)
    layers = sum(len(step.refit.layers) for step in search.dropped if step.refit is not None)
    rewrites = {"blocks dropped": len(search.dropped), "layers refitted": layers}
    rewrites = {name: count for name, count in rewrites.items() if count}
    rewrites |= tidied.steps[0].rewrites
    unmet = None
    if len(search.dropped) < most and not targeted:
        unmet = f"n={most}: after {len(search.dropped)} no residual block is left"
    return PassResult(tidied.model, True, rewrites, tuple(notes), details, near, unmet)


def _nothing(model: ir.Model, declined: list[Declined], n: int | None) -> PassResult:
    """The result for a model without a block to drop."""
    why = "none of its sums adds what layers compute from one operand to that operand"
    if declined:
        first = f"'{declined[0].node}': {declined[0].reason}"
        more = f" (and {len(declined) - 1} more)" if len(declined) > 1 else ""
        why = first + more
    note = f"no residual block can be dropped: {why}"
    unmet = None if n is None else f"n={n}: {note}"
    notes = (note,) if unmet is None else ()
    return PassResult(model, False, notes=notes, declined=tuple(declined), unmet=unmet)


def _outcome(search: Search, priced: list[Priced], data: str) -> str:
    count = len(priced)
    if not search.dropped:
        best = max(search.alone.values())
        return f"none of {count} residual blocks dropped; the least needed alone: {best:.1f} dB"
    names = [f"'{step.block.name}'" for step in search.dropped]
    return (
        f"dropped {len(names)} of {count} residual block{'s' if count > 1 else ''}: "
        f"{listed(names, most=5)}; "
        f"{search.dropped[-1].sqnr_db:.1f} dB at the output, "
        f"on {search.judge.samples} samples of {data}"
    )


def _refit_notes(search: Search) -> list[str]:
    if search.compensate != "ls" or not search.dropped:
        return []
    left = [step for step in search.dropped if step.refit is None]
    if len(left) == len(search.dropped):
        return ["no layer was refitted: the outputs are no nearer to what they were for it"]
    return []


def _details(search: Search, priced: list[Priced]) -> dict[str, Any]:
    places = {step.block.branch: place for place, step in enumerate(search.dropped, 1)}
    return {
        "blocks": [
            {
                "block": p.block.name,
                "branch": p.block.branch,
                "nodes": len(p.block.nodes),
                "macs": p.macs,
                "parameters": p.parameters,
                "sqnr_db": search.alone.get(p.block.branch),
                "dropped": places.get(p.block.branch),
            }
            for p in priced
        ],
        "steps": [
            {
                "block": step.block.name,
                "sqnr_db": step.sqnr_db,
                "refits": [
                    {"layer": name, "error_before": before, "error_after": after}
                    for name, before, after in (step.refit.layers if step.refit else ())
                ],
                "not_refitted": dict(step.refit.declined) if step.refit else {},
            }
            for step in search.dropped
        ],
    }
