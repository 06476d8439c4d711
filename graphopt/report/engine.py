"""What `graphopt check` shows on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape

from graphopt.emit.tensorrt.check import FAILED, PASSED, CheckReport
from graphopt.emit.tensorrt.findings import Finding

PLAIN_WIDTH = 110  # where the output is no terminal and has no width of its own
MAX_ALIKE = 4  # findings that differ in the node alone; --json has all of them
_COLORS = {PASSED: "green", FAILED: "red"}


def print_check(report: CheckReport) -> None:
    """The parts of the check, each finding in a line, and the verdict."""
    console = _console()
    console.print(f"[bold]{escape(report.path)}[/] for {escape(report.target)}")
    for stage in report.stages:
        color = _COLORS.get(stage.outcome, "yellow")
        console.print(f"  {stage.name:<6} [{color}]{stage.outcome}[/]: {escape(stage.note)}")
    for line in _lines(report.findings):
        console.print(line, soft_wrap=True)
    errors = sum(finding.is_error for finding in report.findings)
    if errors:
        console.print(f"no engine: {errors} {'error' if errors == 1 else 'errors'}")
    elif report.engine is not None:
        console.print(f"it builds: {report.engine.engine_bytes:,} bytes")
    else:
        console.print("nothing found, but it was not built")


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding; those that many nodes share are one line."""
    alike: dict[Finding, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(replace(finding, node=""), []).append(finding)
    for same in alike.values():
        kind = "[red]error[/]" if same[0].is_error else "[yellow]warning[/]"
        if len(same) <= MAX_ALIKE:
            yield from (f"{kind}: {escape(finding.text)}" for finding in same)
            continue
        names = ", ".join(f"'{finding.node}'" for finding in same[:MAX_ALIKE])
        rest = f"{names} and {len(same) - MAX_ALIKE} more nodes [{same[0].operator}]"
        fix = f"; {same[0].fix}" if same[0].fix else ""
        yield f"{kind}: {escape(rest)}: {escape(same[0].reason + fix)}"


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
