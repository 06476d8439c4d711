"""The files that a command reads and writes must not be one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, str | Path | None]
) -> None:
    """Checks that every output can be written, and is no other output and no input.

    Args:
        outputs: by the name that the user knows them by; None for what was not asked for.
        inputs: the same; the text of a data source is taken up to its options.

    Raises:
        GraphoptError: before anything is read or written.
    """
    from graphopt.errors import GraphoptError
    from graphopt.ir import writable_path

    taken = {
        Path(str(path).partition("{")[0]).absolute(): name
        for name, path in inputs.items()
        if path is not None
    }
    for name, path in outputs.items():
        if path is None:
            continue
        place = writable_path(path).absolute()
        if place in taken:
            raise GraphoptError(
                f"is both {taken[place]} and {name}", where=str(path), fix="name another file"
            )
        taken[place] = name
