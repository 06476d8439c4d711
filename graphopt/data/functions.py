"""Samples from a user's Python function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from graphopt.data.feeds import Feed, InputSpec, as_feed
from graphopt.errors import GraphoptError


class FunctionSamples:
    """What `module:function` yields: a dict of arrays by input name, or an array, per sample.

    The function is called without arguments for each iteration, and must yield the same again.
    """

    is_random = False

    def __init__(
        self, text: str, function: Callable[..., Any], specs: tuple[InputSpec, ...]
    ) -> None:
        self._text = text
        self._function = function
        self._specs = specs
        self.description = text
        if not list(islice(iter(self), 1)):
            raise GraphoptError("yielded no samples", where=text)

    def __iter__(self) -> Iterator[Feed]:
        produced = self._function()
        if not hasattr(produced, "__iter__"):
            raise GraphoptError(
                f"returned {type(produced).__name__}, not samples",
                where=self._text,
                fix="yield a dict of arrays by input name for each sample",
            )
        for data in produced:
            yield as_feed(data, self._specs, self._text)

    def count(self) -> int | None:
        return None
