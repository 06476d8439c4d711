"""How long work tells how far it is, without knowing who is watching."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Something that shows progress: a bar in a terminal, or nothing at all."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields `items` one by one; `total` is their number when known."""
        ...


class Quiet:
    """Shows nothing: the default in a library."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        yield from items
