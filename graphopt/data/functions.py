"""The user's own Python functions: found, called, and blamed by name when they fail."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from graphopt.data.feeds import Feed, InputSpec, as_feed
from graphopt.errors import GraphoptError


def is_function(text: str) -> bool:
    """Whether `text` has the form `module:function`."""
    module, _, function = text.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_function(text: str) -> Callable[..., Any]:
    """The function that `module:function` names; the current folder can hold the module."""
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with blaming(f"module '{module_name}'"):
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise GraphoptError(
                f"cannot be imported ({error})",
                where=f"module '{module_name}'",
                fix=f"write '{text.replace('.py:', ':')}'" if ".py:" in text else "",
            ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise GraphoptError(f"has no function '{name}'", where=f"module '{module_name}'")
    return function  # type: ignore[no-any-return]


def function_name(function: Callable[..., Any]) -> str:
    """`module:function`, for messages and reports; of an object that is called, its class."""
    name = getattr(function, "__name__", type(function).__name__)
    return f"{getattr(function, '__module__', '') or 'python'}:{name}"


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turns whatever the user's code raises in the body into one line that names its place."""
    try:
        yield
    except GraphoptError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise GraphoptError(
            f"raised {type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})",
            where=where,
        ) from error


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
        with blaming(self._text):
            produced = self._function()
        if not hasattr(produced, "__iter__"):
            raise GraphoptError(
                f"returned {type(produced).__name__}, not samples",
                where=self._text,
                fix="yield a dict of arrays by input name for each sample",
            )
        samples = iter(produced)
        while True:
            with blaming(self._text):
                data = next(samples, self)  # itself: what no user can yield
            if data is self:
                return
            with blaming(self._text):
                feed = as_feed(data, self._specs, self._text)
            yield feed

    def count(self) -> int | None:
        return None
