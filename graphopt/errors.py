"""What graphopt raises when the user, or the user's file, is the cause."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class GraphoptError(Exception):
    """A mistake in the input or in the request, told in one line.

    Args:
        what: what is wrong, without a full stop at the end.
        where: the file, node, tensor or column that it was found at.
        fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        """How to build it again in another process."""
        return partial(type(self), where=self.where, fix=self.fix), (self.what,)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return " ".join((f"{text}; {self.fix}" if self.fix else text).split())


class ToleranceError(GraphoptError):
    """The result breaches a stated tolerance: the request was fine, the outcome is not."""

    exit_code = 1


def write_error(path: Path, error: OSError) -> GraphoptError:
    """That `path` cannot be written, where what was there before is still there."""
    return GraphoptError(
        f"cannot be written ({error.strerror or error})",
        where=str(path),
        fix="free some space or choose another place; nothing was changed",
    )


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint for a misspelt `word`, in whatever case.

    It names those of `known` that have it for one of their words, up to three, or else the
    nearest by spelling, or else all.
    """
    import difflib
    import re

    low = word.lower()
    of_words = [name for name in known if low in re.split("[-_./ ]", name.lower())]
    if of_words:
        return any_of(sorted(of_words, key=lambda name: (len(name), name))[:3])
    spelt = {name.lower(): name for name in known}
    near = difflib.get_close_matches(low, spelt, n=1, cutoff=0.5)
    return any_of([spelt[near[0]]]) if near else f"known: {', '.join(sorted(known))}"


def any_of(names: list[str]) -> str:
    """The question whether one of `names`, at least one, was meant."""
    *others, last = (f"'{name}'" for name in names)
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
