"""Where reports for people are printed."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 10_000


class _ReportConsole(Console):
    """One that leaves it to its caller what becomes of a reader that went away.

    Rich ends the process with status 1, which says here that a result breaches a tolerance.
    """

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def report_console() -> Console:
    """Standard output, as wide as the terminal.

    Into a pipe or a file nothing is folded: a row of a table stays a line, for `grep` and its like.
    """
    console = _ReportConsole(highlight=False)
    return console if console.is_terminal else _ReportConsole(highlight=False, width=PLAIN_WIDTH)


def report_table(*names: str, numbers: Sequence[str] = ()) -> Table:
    """A table with columns of text, and of `numbers` to the right of them.

    What is too wide for the terminal goes on in the next line: a name that is cut off cannot be
    told from its neighbours, and a number that is cut off is another number.
    """
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table
