"""What each pass did in all of its runs: a pipeline that repeats passes runs them many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.pipeline.base import Declined
from graphopt.report.model import StepRow


@dataclass
class PassSummary:
    """All runs of one pass with the same options."""

    step: str
    """As pipeline text."""
    seconds: float = 0.0
    nodes_removed: int = 0
    """Negative if it added more than it removed."""
    rewrites: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    """Of its last run, as is `declined`: what was in the way before may be gone."""
    declined: tuple[Declined, ...] = ()


def summarize(steps: Iterable[StepRow]) -> list[PassSummary]:
    """A summary for each pass, in the order of their first runs."""
    found: dict[str, PassSummary] = {}
    for row in steps:
        summary = found.setdefault(row.step, PassSummary(row.step))
        summary.seconds += row.seconds
        summary.nodes_removed += row.nodes_before - row.nodes_after
        summary.rewrites.update(row.rewrites)
        summary.notes, summary.declined = row.notes, row.declined
    return list(found.values())


def near_misses(declined: Sequence[Declined]) -> Mapping[tuple[str, str, str], list[str]]:
    """The names of the nodes for each (rewrite, operator, reason), in order of appearance."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for miss in declined:
        groups.setdefault((miss.rewrite, miss.op_type, miss.reason), []).append(miss.node)
    return groups
