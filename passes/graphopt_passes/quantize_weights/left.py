"""Weights that a pass leaves alone, and how it says so."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import label
from graphopt.pipeline.notes import quoted


@dataclass(frozen=True)
class Left:
    """A node whose weight stays as it is."""

    node: ir.Node
    reason: str


def notes_on(left: list[Left], how: str) -> list[str]:
    """A sentence for each operator and reason.

    Args:
        how: what became of them, such as "left in float".
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for item in left:
        reasons.setdefault((item.node.op_type, item.reason), []).append(label(item.node))
    return [
        f"{len(nodes)} {operator} {how} ({reason}): {quoted(nodes)}"
        for (operator, reason), nodes in reasons.items()
    ]


def rows_on(left: list[Left]) -> list[dict[str, str]]:
    """The same for the report."""
    return [{"node": label(item.node), "reason": item.reason} for item in left]
