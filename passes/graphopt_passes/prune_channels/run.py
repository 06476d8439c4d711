"""The steps of prune-channels, in order."""

from __future__ import annotations

import fnmatch
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError, did_you_mean
from graphopt.ir import (
    check,
    constant_array,
    drop_unused_initializer,
    infer_shapes,
    is_standard,
    nodes_of,
)
from graphopt.pipeline.base import PassContext, PassResult
from graphopt_passes.prune_channels.apply import Editor
from graphopt_passes.prune_channels.compensate import Refit, compensate
from graphopt_passes.prune_channels.facts import choose_sizes, gather_facts
from graphopt_passes.prune_channels.groups import Cut, Group, choose, find_groups, is_scored
from graphopt_passes.prune_channels.heads import turn_heads
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.rules_layout import RULES as LAYOUT
from graphopt_passes.prune_channels.rules_linear import RULES as LINEAR
from graphopt_passes.prune_channels.rules_pointwise import RULES as POINTWISE
from graphopt_passes.prune_channels.scores import activation_scores, l1_scores
from graphopt_passes.prune_channels.selfcheck import Check, self_check
from graphopt_passes.prune_channels.sweep import SINGLE, Sweep

if TYPE_CHECKING:
    from graphopt.data.feeds import Samples
    from graphopt_passes.prune_channels import PruneChannels

RULES = {**LINEAR, **POINTWISE, **LAYOUT}


def prune(options: PruneChannels, model: ir.Model, context: PassContext) -> PassResult:
    """What `PruneChannels.run` does."""
    samples = context.calibration
    if samples is None and options.required():
        raise GraphoptError(
            "needs calibration data to score channels and to refit weights",
            where="prune-channels",
            fix="give some, or write prune-channels{score=l1,compensate=none}",
        )
    _require_names(model, options.exclude)
    original = _without_detours(model)
    infer_shapes(original)
    found = analyse(original, samples, options.exclude)
    if (
        options.compensate != "none"
        and samples is not None
        and turn_heads(original, found, samples, options.samples, context.progress)
    ):
        found = analyse(original, samples, options.exclude)
    _state_types(original, found)
    groups = find_groups(found)
    scores = _score(options, original, found, context) if groups else {}
    align = _alignment(options, context)
    cut = choose(found, groups, scores, options.ratio, align)
    notes = _kept_notes(found)
    notes += [
        f"group '{group.name}' stays whole: its channels have no score"
        for group in groups
        if not is_scored(group, scores)
    ]
    if align > 1:
        share = 100 * (1 - _share_kept(groups, cut))
        notes.append(f"channels stay in multiples of {align}: {share:.0f}% of them are cut")
    if not cut.gone.any():
        reason = _why_nothing(original, found, groups, options.ratio)
        return PassResult(model, False, notes=(f"no channels can be cut{reason}", *notes))
    pruned = cut_channels(original, found, cut)
    outcome = self_check(original, pruned, found, cut, groups, samples)
    if outcome is None:
        notes.append("ONNX Runtime cannot run this model: the result was not checked by running it")
    refit = Refit()
    if options.compensate != "none" and samples is not None:
        refit = compensate(
            original,
            pruned,
            found,
            cut,
            samples,
            options.samples,
            context.progress,
            options.compensate,
        )
    elif options.compensate == "none":
        notes.append("the remaining weights were not refitted: expect a large loss of accuracy")
    notes += [f"layer '{name}' was not refitted: {reason}" for name, reason in refit.declined]
    check(pruned, where="prune-channels")
    rewrites = {
        "groups cut": sum(cut.touches(group.atoms) for group in groups),
        "channels cut": sum(len(g.atoms) - cut.count(g.atoms) for g in groups),
        "layers refitted": len(refit.layers),
    }
    details = _details(found, groups, cut, outcome, refit)
    return PassResult(pruned, True, rewrites, tuple(notes), details)


def analyse(
    model: ir.Model, samples: Samples | None = None, exclude: tuple[str, ...] = ()
) -> Labelling:
    """Labels every axis of every tensor of the main graph of `model`, which is not changed.

    Args:
        samples: tell how long free axes other than the first are.
        exclude: names or globs of nodes whose outputs stay whole.

    Raises:
        GraphoptError: if an axis other than the first is free and there are no samples.
    """
    facts = gather_facts(model, choose_sizes(model, samples))
    return Sweep(model, facts, exclude).run(RULES)


def cut_channels(model: ir.Model, found: Labelling, cut: Cut) -> ir.Model:
    """A copy of `model`, from which `found` was made, without the channels of `cut`."""
    pruned = model.clone()
    Editor(pruned, found, cut).run()
    return pruned


def _without_detours(model: ir.Model) -> ir.Model:
    """A copy of `model` in which no Identity or Transpose stands between a constant and its user.

    Exporters put them there, and a layer is only refitted if its weight is a constant.
    """
    copy = model.clone()
    for node in list(copy.graph):
        source = node.inputs[0] if len(node.inputs) == 1 else None
        output = node.outputs[0]
        array = constant_array(source)
        if source is None or array is None or output.is_graph_output() or output.name is None:
            continue
        if is_standard(node, "Identity") and source.is_initializer():
            output.replace_all_uses_with(source)
            copy.graph.remove(node, safe=True)
        elif is_standard(node, "Transpose"):
            perm = node.attributes.get_ints("perm", None)
            turned = np.ascontiguousarray(array.transpose(perm))
            name = output.name
            output.name = None
            tensor = ir.tensor(turned, name=name)
            value = ir.Value(
                name=name,
                shape=ir.Shape(turned.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            copy.graph.register_initializer(value)
            output.replace_all_uses_with(value)
            copy.graph.remove(node, safe=True)
            drop_unused_initializer(source)
    return copy


def _state_types(model: ir.Model, found: Labelling) -> None:
    """Lets `model`, this pass's own copy, state the types that the analysis found."""
    for node in model.graph:
        for value in node.outputs:
            if value.type is None and value.name in found.facts.types:
                value.type = ir.TensorType(found.facts.types[value.name])


def _require_names(model: ir.Model, exclude: tuple[str, ...]) -> None:
    names = [node.name for node in model.graph if node.name]
    for glob in exclude:
        if not any(fnmatch.fnmatchcase(name, glob) for name in names):
            raise GraphoptError(
                f"no node is named '{glob}'",
                where="option 'exclude' of prune-channels",
                fix=did_you_mean(glob, names) if names else None,
            )


def _alignment(options: PruneChannels, context: PassContext) -> int:
    if options.align is not None:
        return options.align
    alignment = context.target.alignment
    return alignment.get("fp16", alignment.get("fp32", 1))


def _share_kept(groups: list[Group], cut: Cut) -> float:
    total = sum(len(group.atoms) for group in groups)
    return sum(cut.count(group.atoms) for group in groups) / max(total, 1)


def _score(
    options: PruneChannels, model: ir.Model, found: Labelling, context: PassContext
) -> dict[int, float]:
    if options.score == "l1" or context.calibration is None:
        return l1_scores(model, found)
    return activation_scores(model, found, context.calibration, options.samples, context.progress)


def _reasons(found: Labelling) -> dict[str, Counter[str]]:
    """Why output channels of layers stay: for each layer, how many for each reason."""
    kept: dict[str, Counter[str]] = {}
    for layer in found.layers:
        reasons = [found.atoms.reason(atom) for atom in layer.out_labels.tolist()]
        counted = Counter(reason for reason in reasons if reason is not None)
        if counted:
            kept[layer.name] = counted
    return kept


def _kept_notes(found: Labelling) -> list[str]:
    by_reason: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    for counted in _reasons(found).values():
        by_reason.update(counted)
        layers.update(counted.keys())
    # Nobody expects the only channel of a layer to be cut.
    del by_reason[SINGLE]
    return [
        f"{reason} keeps {number} channels of {layers[reason]} layer"
        + ("s" if layers[reason] > 1 else "")
        for reason, number in by_reason.items()
    ]


def _why_nothing(model: ir.Model, found: Labelling, groups: list[Group], ratio: float) -> str:
    """What to add to "no channels can be cut"; nothing where other notes say why."""
    largest = max((len(group.blocks[0]) for group in groups), default=0)
    if groups and ratio * largest + 1e-9 < 1:
        return f": the share {ratio:g} of {largest} channels, the largest group, is less than one"
    reasons = []
    weighted = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    main = [node for node in model.graph if is_standard(node, *weighted)]
    open_weights = [
        node.name or str(node.outputs[0].name)
        for node in main
        if any(
            v is not None and v.is_initializer() and v.is_graph_input() for v in node.inputs[1:2]
        )
    ]
    if open_weights:
        shown = ", ".join(f"'{name}'" for name in open_weights[:3])
        more = f" and {len(open_weights) - 3} more" if len(open_weights) > 3 else ""
        reasons.append(f"callers may override the weight of {shown}{more}")
    inner = sum(is_standard(node, *weighted) for node in nodes_of(model)) - len(main)
    if inner:
        s = "s are" if inner > 1 else " is"
        reasons.append(f"{inner} layer{s} in functions or subgraphs, which are left alone")
    if not reasons and not found.layers:
        reasons.append("no layer has a constant weight")
    return ": " + ", and ".join(reasons) if reasons else ""


def _details(
    found: Labelling, groups: list[Group], cut: Cut, outcome: Check | None, refit: Refit
) -> dict[str, Any]:
    return {
        "groups": [
            {"group": group.name, "channels": len(group.atoms), "kept": cut.count(group.atoms)}
            for group in groups
        ],
        "kept": {name: dict(counted) for name, counted in _reasons(found).items()},
        "self_check": None
        if outcome is None
        else {"worst": outcome.worst, "tensor": outcome.tensor, "tensors": outcome.tensors},
        "refits": [
            {"layer": name, "error_before": before, "error_after": after}
            for name, before, after in refit.layers
        ],
    }
