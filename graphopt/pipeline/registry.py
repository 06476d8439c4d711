"""Which passes there are: the entry points of group `graphopt.passes`, of every installed package.

[project.entry-points."graphopt.passes"]
my-pass = "my_package.my_pass:MyPass"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from graphopt.errors import GraphoptError, did_you_mean
from graphopt.pipeline.base import Pass

GROUP = "graphopt.passes"


@cache
def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise GraphoptError(
                f"two packages bring a pass '{entry.name}': {other.value} and {entry.value}",
                fix="uninstall one of them",
            )
    return found


def pass_names() -> tuple[str, ...]:
    """The names of all passes, in order; nothing is imported."""
    return tuple(_entries())


def find_pass(name: str) -> type[Pass]:
    """The class of the pass `name`; only its module is imported.

    Raises:
        GraphoptError: if there is none (with a did-you-mean), or it cannot be used.
    """
    entry = _entries().get(name)
    if entry is None:
        raise GraphoptError(f"there is no pass '{name}'", fix=did_you_mean(name, [*_entries()]))
    try:
        cls = entry.load()
    except Exception as error:  # whatever the module of someone else raises
        raise GraphoptError(
            f"'{entry.value}' cannot be loaded ({type(error).__name__}: {error})",
            where=f"pass '{name}'",
            fix="mend or uninstall the package that brings it",
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Pass)) or cls.name != name:
        raise GraphoptError(
            f"'{entry.value}' is not a graphopt.Pass named '{name}'", where=f"pass '{name}'"
        )
    return cls
