"""Passes of other packages: found by their entry points, and not trusted to be right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from models import MLP, proto

import graphopt
from graphopt.cli import graphopt as command
from graphopt.pipeline import registry

MODULE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import graphopt

if TYPE_CHECKING:
    from pathlib import Path


class Base(graphopt.Pass):
    stage = graphopt.Stage.SIMPLIFY
    effect = graphopt.Effect.EXACT


@dataclass(frozen=True)
class Fine(Base):
    """Changes nothing."""

    name = "fine"

    def run(self, model, context):
        return graphopt.PassResult(model, False)


@dataclass(frozen=True)
class Hidden(Fine):
    """Has an option of a type that is not there."""

    name = "hidden-type"
    where: Path | None = None


@dataclass(frozen=True)
class Silent(Base):
    """Forgets its result."""

    name = "silent"

    def run(self, model, context):
        return None
'''
ENTRIES = """
[graphopt.passes]
broken = theirs_broken:Any
fine = theirs:Fine
gone = theirs:Gone
hidden-type = theirs:Hidden
other-name = theirs:Fine
silent = theirs:Silent
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that is installed, with good passes and bad ones."""
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "theirs.py").write_text(MODULE)
    (tmp_path / "theirs_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()


def test_the_list_shows_every_pass_that_can_be_used() -> None:
    done = CliRunner().invoke(command, ["passes"])
    assert done.exit_code == 0
    listed = dict(line.split(maxsplit=1) for line in done.output.splitlines() if "[" in line)
    assert listed["fine"] == "Changes nothing. [simplify, exact]"
    assert "simplify, exact" in listed["fold-constants"]
    broken = [line.split(maxsplit=1) for line in done.output.splitlines() if "unusable: " in line]
    assert dict(broken) == {
        "broken": "unusable: 'theirs_broken:Any' cannot be loaded "
        "(ZeroDivisionError: division by zero)",
        "gone": "unusable: 'theirs:Gone' cannot be loaded "
        "(AttributeError: module 'theirs' has no attribute 'Gone')",
        "other-name": "unusable: 'theirs:Fine' is not a graphopt.Pass named 'other-name'",
    }


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            "broken",
            r"pass 'broken': .* cannot be loaded \(ZeroDivisionError: .*; mend or uninstall",
        ),
        ("gone", r"pass 'gone': .* cannot be loaded .* no attribute 'Gone'"),
        ("other-name", "is not a graphopt.Pass named 'other-name'"),
        ("hidden-type{where=x}", r"pass 'hidden-type': .*'Path' is not defined.*TYPE_CHECKING"),
        ("silent", r"pass 'silent': its run returned NoneType, not a PassResult; return PassRes"),
    ],
)
def test_a_bad_pass_is_told_in_one_line(pipeline: str, message: str) -> None:
    with pytest.raises(graphopt.GraphoptError, match=message):
        graphopt.optimize(proto(MLP), pipeline)


def test_options_that_cannot_be_shown_are_one_line_too() -> None:
    done = CliRunner().invoke(command, ["passes", "hidden-type"])
    assert isinstance(done.exception, graphopt.GraphoptError)
    assert "import them outside of TYPE_CHECKING" in str(done.exception)
