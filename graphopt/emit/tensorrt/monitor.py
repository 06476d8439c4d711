"""How far a build is, told from the child process to its parent through a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class BuildProgress:
    """The outermost phase of a build: how many of its steps are done."""

    phase: str
    done: int
    total: int


def write_progress(folder: Path, progress: BuildProgress) -> None:
    """Replaces the file; a full disk must not end the build, so it may stay out of date."""
    with suppress(OSError):
        new = folder / f"{PROGRESS_FILE}.new"
        new.write_text(json.dumps([progress.phase, progress.done, progress.total]), "utf-8")
        new.replace(folder / PROGRESS_FILE)


def read_progress(folder: Path) -> BuildProgress | None:
    """What was written last; None if nothing was yet."""
    try:
        return BuildProgress(*json.loads((folder / PROGRESS_FILE).read_text("utf-8")))
    except FileNotFoundError:
        return None


def make_monitor(trt: Any, tell: Callable[[BuildProgress], None]) -> Any:
    """A progress monitor for a builder's config; None for a version that has none."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                tell(BuildProgress(phase_name, 0, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                tell(BuildProgress(phase_name, step + 1, self.steps[phase_name]))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                total = self.steps.pop(phase_name)
                tell(BuildProgress(phase_name, total, total))

    return Monitor()
