"""Names in the notes that passes leave for the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first `most` of `names`, and how many more there are."""
    shown = ", ".join(names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def quoted(names: Iterable[str]) -> str:
    """The same, each in quotes."""
    return listed([f"'{name}'" for name in names])
