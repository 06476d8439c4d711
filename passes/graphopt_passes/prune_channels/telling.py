"""What prune-channels tells of its work: notes for the user, details for the report."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from graphopt.ir import is_standard, label, nodes_of
from graphopt.pipeline.notes import quoted
from graphopt_passes.prune_channels.budget import TITLES, Budget, amount, count_cost
from graphopt_passes.prune_channels.groups import Cut, Group, step_of
from graphopt_passes.prune_channels.labelling import Labelling
from graphopt_passes.prune_channels.stages import Pruned, Stage, Task
from graphopt_passes.prune_channels.sweep import SINGLE
from graphopt_passes.prune_channels.targets import Target


def of_kept(found: Labelling) -> list[str]:
    """Notes on what stays whole, and why."""
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


def of_scores(stage: Stage) -> list[str]:
    """Notes on how channels were scored, and which could not be."""
    scored = {id(group) for group in stage.scored}
    return list(stage.scores.notes) + [
        f"group '{group.name}' stays whole: its channels have no score"
        for group in stage.groups
        if id(group) not in scored
    ]


def of_cut(task: Task, pruned: Pruned) -> list[str]:
    """Notes on how much went, and on what was left out on the way."""
    notes = []
    if task.align > 1:
        share = 100 * (1 - _share_kept(task.groups, pruned.cut))
        notes.append(f"channels stay in multiples of {task.align}: {share:.0f}% of them are cut")
    if not pruned.cut.gone.any():
        return notes
    if task.align == 1 and task.options.align is None:
        notes.append(
            "counts are not rounded: name a target, and they become multiples of what its kernels "
            "take at once, without which fewer channels can take longer"
        )
    if pruned.check is None:
        notes.append("ONNX Runtime cannot run this model: the result was not checked by running it")
    if not task.refits:
        notes.append("the remaining weights were not refitted: expect a large loss of accuracy")
    elif any(is_standard(node, "QuantizeLinear") for node in nodes_of(task.teacher)):
        notes.append(
            "the model is quantized: weights in integers are cut as they are, and not refitted; "
            "prune the float model, and quantize after that"
        )
    refused = pruned.refit.declined
    return notes + [f"layer '{name}' was not refitted: {reason}" for name, reason in refused]


def why_nothing(task: Task, target: Target) -> str:
    """Why no channels are cut, as far as no other note says so."""
    largest = max((len(group.blocks[0]) for group in task.groups), default=0)
    if target.kind == "ratio" and largest and target.value * largest + 1e-9 < 1:
        share = f"the share {target.value:g} of {largest} channels, the largest group"
        return f"no channels can be cut: {share}, is less than one"
    if (
        largest
        and task.align > 1
        and all(step_of(group, task.align) >= len(group.blocks[0]) for group in task.groups)
    ):
        return (
            f"no channels can be cut: no group has more than {task.align}, which kernels take at "
            "once; align=1 cuts them all the same"
        )
    reasons = _obstacles(task.teacher, task.found)
    return "no channels can be cut" + (": " + ", and ".join(reasons) if reasons else "")


def _obstacles(model: ir.Model, found: Labelling) -> list[str]:
    """What keeps layers from being followed at all."""
    reasons = []
    weighted = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    main = [node for node in model.graph if is_standard(node, *weighted)]
    open_weights = [
        label(node)
        for node in main
        if any(
            v is not None and v.is_initializer() and v.is_graph_input() for v in node.inputs[1:2]
        )
    ]
    if open_weights:
        reasons.append(f"callers may override the weight of {quoted(open_weights)}")
    inner = sum(is_standard(node, *weighted) for node in nodes_of(model)) - len(main)
    if inner:
        s = "s are" if inner > 1 else " is"
        reasons.append(f"{inner} layer{s} in functions or subgraphs, which are left alone")
    if not reasons and not found.layers:
        reasons.append("no layer has a constant weight")
    return reasons


def details(task: Task, first: Stage, pruned: Pruned, target: Target) -> dict[str, Any]:
    """For the report."""
    check = pruned.check
    return {
        "groups": _group_rows(task, first, pruned.cut, measured=target.kind != "ratio"),
        "cost": _cost_rows(task, pruned),
        "kept": {name: dict(counted) for name, counted in _reasons(task.found).items()},
        "self_check": None
        if check is None
        else {"worst": check.worst, "tensor": check.tensor, "tensors": check.tensors},
        "refits": [
            {"layer": name, "error_before": before, "error_after": after}
            for name, before, after in pruned.refit.layers
        ],
    }


def _group_rows(task: Task, first: Stage, cut: Cut, *, measured: bool) -> list[dict[str, Any]]:
    """A row for each group: MACs are those of the nodes that shrink with it."""
    budget = Budget(task.teacher, task.found, task.groups, "macs")
    parts, left = budget.parts(), budget.parts(cut)
    scored = [id(group) for group in first.scored]
    known = dict(zip(scored, first.sensitivities, strict=True)) if measured else {}
    return [
        {
            "group": group.name,
            "channels": len(group.atoms),
            "kept": cut.count(group.atoms),
            "macs": parts[number],
            "macs_left": left[number],
            **({"sensitivity": known[id(group)].middle} if id(group) in known else {}),
        }
        for number, group in enumerate(task.groups)
    ]


def _cost_rows(task: Task, pruned: Pruned) -> dict[str, dict[str, int]]:
    before = count_cost(task.teacher, task.found)
    after = count_cost(pruned.model, task.found, pruned.cut)
    return {
        quantity: {"before": amount(before, quantity), "after": amount(after, quantity)}
        for quantity in TITLES
    }


def _share_kept(groups: list[Group], cut: Cut) -> float:
    total = sum(len(group.atoms) for group in groups)
    return sum(cut.count(group.atoms) for group in groups) / max(total, 1)


def _reasons(found: Labelling) -> dict[str, Counter[str]]:
    """Why output channels of layers stay: for each layer, how many for each reason."""
    kept: dict[str, Counter[str]] = {}
    for layer in found.layers:
        reasons = [found.atoms.reason(atom) for atom in layer.out_labels.tolist()]
        counted = Counter(reason for reason in reasons if reason is not None)
        if counted:
            kept[layer.name] = counted
    return kept
