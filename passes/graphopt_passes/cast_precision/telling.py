"""What `cast-precision` tells of what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from graphopt.ir import is_standard, label
from graphopt.ir.cost import NodeCost
from graphopt.pipeline.notes import listed
from graphopt_passes.cast_precision.decide import Decision
from graphopt_passes.cast_precision.low import LowType
from graphopt_passes.cast_precision.refit import Fit
from graphopt_passes.cast_precision.simulate import Fidelity
from graphopt_passes.cast_precision.tables import MOVERS, WEIGHTED

_SILENT = MOVERS | {"Cast", "Shape", "Size", "Constant", "Range"}
"""Operators whose type is of no interest by itself."""


def left_rows(decision: Decision) -> list[dict[str, Any]]:
    """What stays fp32 and computes in it, with the reason."""
    return [
        {**_row(node), "reason": reason}
        for node in decision.signatures.nodes
        if (reason := decision.left.get(node)) is not None
        and decision.signatures.floats(node)
        and not is_standard(node, *_SILENT)
    ]


def _row(node: ir.Node) -> dict[str, Any]:
    return {"node": label(node), "op_type": node.op_type}


def fp32_share(decision: Decision, costs: Mapping[ir.Node, NodeCost]) -> float | None:
    """The part of the multiply-accumulates that is computed in fp32; None if that is not known.

    Args:
        costs: those of the nodes of the main graph.
    """
    known = {node: cost.macs for node, cost in costs.items() if cost.macs is not None}
    total = sum(known.values())
    if len(known) < len(costs) or not total:
        return None
    floats = decision.signatures.floats
    return sum(n for node, n in known.items() if node in decision.left and floats(node)) / total


def fitted(fit: Fit, decision: Decision) -> int:
    """How many layers have better weights: those that became fp32 since have their own."""
    return sum(decision.is_low(node) for node in fit.weights)


def fit_row(fit: Fit, decision: Decision) -> dict[str, Any] | None:
    """For the report: how many layers got better weights; None if none was looked for."""
    if fit.before is None:
        return None
    layers = fitted(fit, decision)
    return {"layers": layers, "sqnr_db_before": fit.before, "sqnr_db_after": fit.after}


def notes_on_fit(fit: Fit, decision: Decision) -> list[str]:
    """What better weights came to, or why there are none."""
    notes = []
    layers = fitted(fit, decision)
    if fit.reason is not None:
        notes.append(f"weights are the nearest of the type: {fit.reason}")
    elif layers:
        notes.append(
            f"the weights of {layers} layers are rounded together: outputs keep "
            f"{fit.before:.1f} -> {fit.after:.1f} dB on held-out samples"
        )
    left = [_row(node) for node in fit.not_finite if decision.is_low(node)]
    if left:
        notes.append(
            f"{len(left)} with the nearest weights (NaN or infinite on the samples is what it "
            f"reads or gives): {_listed(left)}"
        )
    return notes


def notes_on(rows: list[dict[str, Any]], share: float | None) -> list[str]:
    """One sentence for each reason, what weighs most first; and `share`, as `fp32_share` has it."""
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        reasons.setdefault(general_reason(row["reason"]), []).append(row)
    order = sorted(reasons, key=lambda reason: not any(map(_is_weighted, reasons[reason])))
    notes = [f"{len(reasons[r])} kept in fp32 ({r}): {_listed(reasons[r])}" for r in order]
    if share:
        notes.append(f"{share:.1%} of the multiply-accumulates are in fp32, which is slower")
    return notes


def general_reason(reason: str) -> str:
    """`reason` without the names and numbers that are a node's own."""
    text = reason.split(" (up to")[0].split(": up to")[0]
    if text.startswith("a sum of "):
        return "a sum that may overflow"
    if "'" in text and not text.startswith("it is an operator"):
        before, _, rest = text.partition("'")
        after = rest.partition("'")[2]
        return f"{before.strip()}{after}"
    return text


def _is_weighted(row: dict[str, Any]) -> bool:
    return row["op_type"] in WEIGHTED


def _listed(rows: list[dict[str, Any]]) -> str:
    return listed([f"{row['op_type']} '{row['node']}'" for row in rows])


def rewrites(decision: Decision, counts: Counter[str], fit: Fit) -> dict[str, int]:
    """How many nodes are low, and what was put in or taken out for that."""
    name = decision.low.name
    low = [node for node in decision.low_nodes() if not is_standard(node, *_SILENT)]
    found = {f"{name}-node": len(low), "cast": counts["cast"], "idle-cast": counts["idle-cast"]}
    masks = [use for use in (*decision.masked, *decision.saturated) if decision.reads_low(*use)]
    found["clamped-mask"] = len(masks)
    found["fitted-weight"] = fitted(fit, decision)
    return {what: count for what, count in found.items() if count}


def summary(
    counts: Mapping[str, int], low: LowType, before: int, after: int, fidelity: Fidelity | None
) -> list[str]:
    """What came of it, in a sentence."""
    nodes = counts.get(f"{low.name}-node", 0)
    text = f"{nodes} nodes in {low.name}, weights {before / 1e6:.2f} -> {after / 1e6:.2f} MB"
    if fidelity is not None and fidelity.rounded is not None:
        text += f"; outputs keep {fidelity.sqnr_db:.1f} dB on the samples"
    return [text]


def shortfall(fidelity: Fidelity, goal: float, low: LowType) -> str:
    """That the outputs do not keep `goal` dB."""
    if not fidelity.finite:
        return f"outputs become NaN or infinite in {low.name} on the samples"
    return f"outputs keep {fidelity.sqnr_db:.1f} dB in {low.name} on the samples, not {goal:g} dB"
