"""docs/rewrites.md does not lie: what it names exists, and what exists is named."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from models import model

import graphopt
from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage
from graphopt.pipeline.presets import PRESETS
from graphopt.pipeline.registry import find_pass, pass_names
from graphopt.rewriting import Rule, rewrite

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "rewrites.md").read_text()

# All options that make a pass do more than it does by default, or that it demands.
OPTIONS = {"fuse-gemm": {"merge_parallel": True}, "set-opset": {"version": 17}}

# Of the passes that do more than rules; `test_names_of_passes_without_rules` looks for them.
OTHERS = {
    "inline": {"function", "if", "loop"},
    "fold-constants": {
        *("constant-to-initializer", "skip-identity-of-constant", "fold", "fold-shape"),
        "constant-reshape",
    },
    "merge-duplicates": {"duplicate-node", "duplicate-initializer", "duplicate-constant"},
    "eliminate-dead": {"unused-node", "unused-initializer", "unused-function"},
    "set-opset": {"opset"},
    "keep-blocked": {"padded-group", "pooled-mean", "repeated-gate"},
}


def lossless_passes() -> list[str]:
    """The passes of the page: all that come with graphopt and are exact."""
    found = []
    for name in pass_names():
        kind = find_pass(name)
        own = kind.__module__.startswith("graphopt_passes.")
        last = kind.stage is Stage.FINALIZE and kind.effect is Effect.EXACT
        if own and (last or kind.stage in (Stage.SIMPLIFY, Stage.FUSE, Stage.ANY)):
            found.append(name)
    return found


def rewrites_of(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the rules that a pass applies, or its part of OTHERS."""
    if name in OTHERS:
        return OTHERS[name]
    seen: set[str] = set()

    def note(model: object, context: object, rules: Sequence[Rule]) -> PassResult:
        seen.update(rule.name for rule in rules)
        return PassResult(empty, modified=False)

    monkeypatch.setattr("graphopt.rewriting.rewrite", note)
    empty = model('<ir_version: 9, opset_import: ["" : 17]> g (float x) => (float y) {y = Abs(x)}')
    instance: Pass = find_pass(name)(**OPTIONS.get(name, {}))
    instance.run(empty, PassContext())
    assert seen, f"{name} applies no rules: is it missing in OTHERS?"
    return seen


def sections() -> dict[str, str]:
    """The text below each heading of a pass."""
    parts = re.split(r"^##+ (.*)$", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def named(text: str, column: int) -> set[str]:
    """What stands in backticks in a column of the tables in `text`."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[1 + column])}


def test_every_pass_has_a_section() -> None:
    titles = {"simplify", "fuse", "Others", "By pattern"}
    assert set(sections()) - titles == set(lossless_passes())


@pytest.mark.parametrize("name", lossless_passes())
def test_the_rewrites_of_a_pass_are_those_on_the_page(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert named(sections()[name], 0) == rewrites_of(name, monkeypatch)


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_passes_without_rules(name: str) -> None:
    folder = Path(inspect.getfile(find_pass(name))).parent
    texts = {
        node.value
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant)
    }
    # `inline` and `set-opset` also count operators, by their own names.
    assert {text for text in OTHERS[name] if text not in texts} <= {"if", "loop"}


def test_the_rewrites_by_pattern_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        f"{name}:{rewrite}"
        for name in lossless_passes()
        for rewrite in rewrites_of(name, monkeypatch)
    }
    pairs = named(sections()["By pattern"], 1)
    assert pairs
    assert pairs <= known


def test_the_presets_are_those_on_the_page() -> None:
    for preset in ("simplify", "fuse"):
        assert f"`{PRESETS[preset]}`" in sections()[preset]


def test_what_the_page_says_of_a_name_and_a_reason() -> None:
    """As in its first paragraph."""
    result = graphopt.optimize(
        model(
            '<ir_version: 9, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) '
            "<float k = {0.0}> { a = Sin (x) b = Add (a, k) y = Neg (b) }"
        ),
        "simplify",
    )
    (declined,) = {
        (each.rewrite, each.reason) for step in result.report.steps for each in step.declined
    }
    assert declined == ("noop-add", "with +0.0 it makes +0.0 of -0.0")


@pytest.mark.parametrize(
    ("nodes", "left", "reasons"),
    [
        ("a = Exp (x) b = Neg (a) c = Neg (b) y = Sin (c)", ["Exp", "Sin"], []),
        (
            "a = Neg (x) y = Neg (a)",
            ["Neg", "Neg"],
            ["an input and an output of the graph keep their names"],
        ),
    ],
)
def test_the_rule_in_contributing_works(nodes: str, left: list[str], reasons: list[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    text = f'<ir_version: 9, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {{ {nodes} }}'
    result = rewrite(model(text), PassContext(), names["RULES"])
    assert [node.op_type for node in result.model.graph] == left
    assert [each.reason for each in result.declined] == reasons
