"""Where reports for people are printed."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 10_000


def report_console() -> Console:
    """Standard output, as wide as the terminal.

    Into a pipe or a file nothing is folded: a row of a table stays a line, for `grep` and its like.
    """
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
