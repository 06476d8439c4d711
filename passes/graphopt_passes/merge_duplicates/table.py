"""Finding equals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

Look = Callable[[T], Hashable]


class Table(Generic[T]):
    """The first of equal items, told apart by looking no closer than needed.

    Items have a key, and finer keys that are found out only for those that share the one before.
    """

    def __init__(self) -> None:
        self._first: dict[Hashable, T] = {}
        self._split: set[Hashable] = set()
        self._entered: list[Hashable] = []

    def get(self, key: Hashable) -> T | None:
        return self._first.get(key)

    def find(self, item: T, key: Hashable, closer: Sequence[Look[T]] = ()) -> T | None:
        """The item equal to `item` that was here first; None if it is the first itself."""
        for look in closer:
            first = self._enter(key, item)
            if first is item:
                return None
            if key not in self._split:
                self._split.add(key)
                self._enter((key, look(first)), first)
            key = (key, look(item))
        first = self._enter(key, item)
        return None if first is item else first

    def _enter(self, key: Hashable, item: T) -> T:
        first = self._first.get(key)
        if first is None:
            self._first[key] = first = item
            self._entered.append(key)
        return first

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What enters in here is forgotten afterwards."""
        outside = len(self._entered)
        yield
        for key in self._entered[outside:]:
            del self._first[key]
            self._split.discard(key)
            if isinstance(key, tuple) and key:  # it may be the finer key of an item outside
                self._split.discard(key[0])
        del self._entered[outside:]
