"""The floors of the house: an import goes down only, and the core never imports a pass."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[1] / "graphopt"

FLOORS = [
    {"dimensions", "errors", "garbage", "progress"},
    {"options"},
    {"ir"},
    {"targets"},
    {"quantization"},
    {"data"},
    {"runtime"},
    {"calibration", "reconstruction"},
    {"gradients"},
    {"pipeline"},
    {"rewriting"},
    {"emit"},
    {"report"},
    {"jobs"},
    {"cli"},
    {"", "__main__"},  # graphopt/__init__.py, the door; and python -m graphopt
]
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}


def unit(path: Path) -> str:
    """The folder or file right under graphopt/ that `path` belongs to."""
    first = path.relative_to(CORE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


FILES = sorted(CORE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_imports_go_down(path: Path) -> None:
    here = unit(path)
    for module in imported(path):
        assert not module.startswith("graphopt_passes"), f"{path} imports a pass"
        if module.split(".")[0] != "graphopt":
            continue
        there = (*module.split("."), "")[1]
        assert there == here or HEIGHT[there] < HEIGHT[here], f"{path} imports {module}"


def test_every_unit_has_its_floor() -> None:
    assert {unit(path) for path in FILES} == set(HEIGHT)
