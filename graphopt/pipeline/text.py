"""Pipelines as text.

    pipeline := step ("," step)*
    step     := name options? | "repeat" options? "(" pipeline ")"

The name of a preset stands for its steps. `parse(str(p)) == p`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.errors import GraphoptError, did_you_mean
from graphopt.options import MAX_DEPTH, Scanner, build, format_options, scan_options
from graphopt.pipeline.base import Pass, Stage
from graphopt.pipeline.presets import PRESETS
from graphopt.pipeline.registry import find_pass, pass_names

REPEAT = "repeat"


@dataclass(frozen=True)
class RepeatOptions:
    """How often at most."""

    max: int = 10

    def __post_init__(self) -> None:
        if self.max < 1:
            raise ValueError("max must be at least 1")


@dataclass(frozen=True)
class Repeat:
    """Runs `body` again and again until it changes nothing, at most `options.max` times."""

    body: Pipeline
    options: RepeatOptions = RepeatOptions()

    def __str__(self) -> str:
        changed = {} if self.options == RepeatOptions() else {"max": self.options.max}
        return f"{REPEAT}{format_options(changed)}({self.body})"


Step: TypeAlias = "Pass | Repeat"


@dataclass(frozen=True)
class Pipeline:
    """Steps in the order they run."""

    steps: tuple[Step, ...]

    def passes(self) -> Iterator[Pass]:
        """Every pass, in order, those inside `repeat` once."""
        for step in self.steps:
            if isinstance(step, Repeat):
                yield from step.body.passes()
            else:
                yield step

    def __str__(self) -> str:
        return ",".join(str(step) for step in self.steps)


def as_pipeline(passes: str | Pipeline) -> Pipeline:
    """`passes` as a pipeline.

    Raises:
        GraphoptError: as `parse`, or if it is neither text nor a pipeline.
    """
    if isinstance(passes, Pipeline):
        return passes
    if not isinstance(passes, str):
        raise GraphoptError(
            f"a pipeline cannot be of type {type(passes).__name__}",
            fix='give text, as "simplify,fuse", or Pipeline((a_pass, another_pass))',
        )
    return parse(passes)


def parse(text: str) -> Pipeline:
    """Reads a pipeline.

    Raises:
        GraphoptError: with the column, for bad syntax, an unknown pass or option (with a
            did-you-mean), or a value that does not fit its option.
    """
    scanner = Scanner(text)
    pipeline = _pipeline(scanner)
    if scanner.peek():
        scanner.fail(f"',' expected, found '{scanner.peek()}'")
    return pipeline


def _pipeline(scanner: Scanner, depth: int = 0) -> Pipeline:
    if depth > MAX_DEPTH:
        scanner.fail("repetitions are nested too deeply")
    steps: list[Step] = []
    while True:
        steps.extend(_step(scanner, depth))
        if not scanner.accept(","):
            return Pipeline(tuple(steps))


def _step(scanner: Scanner, depth: int) -> tuple[Step, ...]:
    name, column = scanner.word("the name of a pass")
    options = scan_options(scanner)
    if name == REPEAT:
        scanner.expect("(", f"'{REPEAT}'")
        body = _pipeline(scanner, depth + 1)
        scanner.expect(")", "the last step to repeat")
        return (Repeat(body, build(RepeatOptions, options, scanner, f"'{REPEAT}'")),)
    if name in PRESETS:
        for key, (_, at) in options.items():
            scanner.fail(f"preset '{name}' has no option '{key}'", at, "give it to a pass")
        return parse(PRESETS[name]).steps
    if name not in pass_names():
        known = [*pass_names(), *PRESETS, REPEAT]
        scanner.fail(f"there is no pass '{name}'", column, did_you_mean(name, known))
    return (build(find_pass(name), options, scanner, f"pass '{name}'"),)


def check_order(pipeline: Pipeline) -> None:
    """Raises GraphoptError if a pass stands after one of a later stage."""
    latest: Pass | None = None
    for step in pipeline.passes():
        if step.stage is Stage.ANY:
            continue
        if latest is not None and step.stage < latest.stage:
            raise GraphoptError(
                f"'{step.name}' ({step.stage.name.lower()}) stands after '{latest.name}' "
                f"({latest.stage.name.lower()}), whose result it may undo or miss",
                where=f"pipeline '{pipeline}'",
                fix="move it forward, or allow any order (--any-order)",
            )
        latest = step
