"""What `graphopt groups` shows, and how it is shown on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.report.console import report_console, report_table

TOP_GROUPS = 30
TOP_REASONS = 15
MAX_NAMES = 1


@dataclass(frozen=True)
class Spread:
    """The scores of the channels of a group; the lowest are cut first."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are cut together, through all layers that make or read them."""

    name: str
    channels: int
    blocks: int
    """From so many blocks the same number each is cut: the groups of a convolution, say."""
    made_by: tuple[str, ...]
    """Names of the layers whose weights make them."""
    read_by: tuple[str, ...]
    """Names of the layers whose weights read them."""
    macs: int
    """Multiply-accumulates for one sample that would go with all of its channels; what depends on
    two groups counts for both."""
    parameters: int
    """The same for elements of constants."""
    scores: Spread | None
    """None where a channel has no score: then the group stays whole."""


@dataclass(frozen=True)
class KeptChannels:
    """Channels that no group holds, for one reason, which names the operator and the node."""

    reason: str
    channels: int
    """Positions along the axes of weights."""
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Groups:
    """What `graphopt groups` shows."""

    source: str
    pipeline: str
    macs: int
    """Of the whole model, for one sample."""
    parameters: int
    groups: tuple[ChannelGroup, ...]
    """In the order of the graph."""
    kept: tuple[KeptChannels, ...]
    notes: tuple[str, ...] = ()

    @property
    def by_macs(self) -> tuple[ChannelGroup, ...]:
        """The groups, those with the most multiply-accumulates first."""
        return tuple(sorted(self.groups, key=lambda group: (-group.macs, -group.parameters)))


def print_groups(groups: Groups, *, every: bool = False) -> None:
    """The groups, those with the most MACs first, and why other channels stay.

    Args:
        every: all groups, reasons and names, and not just the first of many.
    """
    console = report_console()
    channels = sum(group.channels for group in groups.groups)
    console.print(
        f"[bold]{escape(groups.source)}[/]: {len(groups.groups)} groups of {channels:,} channels; "
        f"{groups.macs:,} MACs, {groups.parameters:,} parameters"
    )
    if groups.groups:
        console.print(_groups_table(groups, every=every))
    _more(console, len(groups.groups), TOP_GROUPS, "groups", every=every)
    if groups.kept:
        console.print(_kept_table(groups.kept, every=every))
    _more(console, len(groups.kept), TOP_REASONS, "reasons", every=every)
    for note in groups.notes:
        console.print(f"  - {escape(note)}")


def _more(console: Console, count: int, shown: int, what: str, *, every: bool) -> None:
    if count > shown and not every:
        console.print(f"... and {count - shown} more {what} (--all)")


def _groups_table(groups: Groups, *, every: bool) -> Table:
    numbers = ("channels", "MACs", "parameters", "score: min", "median", "max")
    table = report_table("made by", "read by", numbers=numbers)
    for group in groups.by_macs[: None if every else TOP_GROUPS]:
        blocks = f"{group.blocks} x {group.channels // group.blocks}"
        spread = group.scores
        table.add_row(
            _names(group.made_by or (group.name,), every=every),
            _names(group.read_by, every=every),
            str(group.channels) if group.blocks == 1 else blocks,
            f"{group.macs / max(groups.macs, 1):.1%}",
            f"{group.parameters / max(groups.parameters, 1):.1%}",
            *(
                ("none", "", "")
                if spread is None
                else (_score(spread.min), _score(spread.median), _score(spread.max))
            ),
        )
    return table


def _kept_table(kept: Sequence[KeptChannels], *, every: bool) -> Table:
    table = Table()
    table.add_column("stays because of", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("of", overflow="fold")
    most = sorted(kept, key=lambda row: -row.channels)
    for row in most[: None if every else TOP_REASONS]:
        table.add_row(escape(row.reason), f"{row.channels:,}", _names(row.weights, every=every))
    return table


def _names(names: Sequence[str], *, every: bool) -> str:
    shown = names if every else names[:MAX_NAMES]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return escape(", ".join(shown) + more)


def _score(score: float) -> str:
    return f"{score:.3g}" if math.isfinite(score) else str(score)
