"""Running the builder in a process of its own, with a time limit and a record of a crash."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from graphopt.emit.tensorrt.monitor import BuildProgress, read_progress
from graphopt.emit.tensorrt.request import (
    ERROR_FILE,
    LOG_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    BuildRequest,
    BuildResult,
)
from graphopt.errors import GraphoptError
from graphopt.progress import Progress, Quiet

CHILD = "graphopt.emit.tensorrt._child"
_OUTPUT_FILE = "output.txt"
_TAIL_LINES = 3
_TAIL_BYTES = 1 << 16
_POLL_S = 0.2
AFTER_A_CRASH = "see what 'graphopt check' finds, or report this to the builder's makers"
# What Python says of every crash.
_NOISE = re.compile(r'Extension modules: |File "<frozen ')


def build_in_child(
    module: str, request: BuildRequest, progress: Progress | None = None
) -> BuildResult:
    """Builds `request` with the package `module`, in a child process.

    Args:
        progress: shows how far the build is, where the builder can say so.

    Raises:
        GraphoptError: if the child reports one, crashes, or passes `request.timeout_s`; then the
            child and all that it started are gone.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        folder = Path(name)
        (folder / REQUEST_FILE).write_text(request.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", CHILD, module, str(folder)]
        status = _run(command, folder, request, progress or Quiet())
        if (folder / ERROR_FILE).exists():
            told = json.loads((folder / ERROR_FILE).read_text(encoding="utf-8"))
            raise GraphoptError(told["what"], where=told["where"], fix=told["fix"])
        if status != 0 or not (folder / RESULT_FILE).exists():
            raise GraphoptError(
                f"the builder process {_ending(status)}; its last words: {_tail(folder)}",
                where=request.model,
                fix=AFTER_A_CRASH,
            )
        return BuildResult.from_json((folder / RESULT_FILE).read_text(encoding="utf-8"))


def _run(command: list[str], folder: Path, request: BuildRequest, progress: Progress) -> int:
    """Runs `command` in `folder`; returns its exit status, negative for a signal."""
    environment = dict(os.environ)
    # The child finds what this process finds, and its own folder holds no module to mistake.
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    with (folder / _OUTPUT_FILE).open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + request.timeout_s
        try:
            phases = groupby(_states(process, folder, deadline), lambda s: (s.phase, s.total))
            for (phase, total), states in phases:
                for _ in progress.track(_steps(states), phase, total):
                    pass
            return process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise GraphoptError(
                f"the build took longer than {request.timeout_s:g} s and was stopped",
                where=request.model,
                fix="allow more time with --timeout",
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _states(
    process: subprocess.Popen[bytes], folder: Path, deadline: float
) -> Iterator[BuildProgress]:
    """How far the build is, from the moment it says so, until the process has ended.

    Raises:
        subprocess.TimeoutExpired: at the deadline.
    """
    while process.poll() is None:
        now = read_progress(folder)
        if now is not None:
            yield now
        left = deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired(process.args, left)
        try:
            process.wait(min(_POLL_S, left))
        except subprocess.TimeoutExpired:
            continue
    last = read_progress(folder)
    if last is not None:
        yield last


def _steps(states: Iterator[BuildProgress]) -> Iterator[int]:
    """Each step of a phase once."""
    shown = 0
    for state in states:
        yield from range(shown, state.done)
        shown = max(shown, state.done)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _tail(folder: Path) -> str:
    """The last lines of what the child logged and printed, in one."""
    lines: list[str] = []
    for name in (LOG_FILE, _OUTPUT_FILE):
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                file.seek(max(0, (folder / name).stat().st_size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
            said = (line.strip() for line in text.splitlines())
            lines += [line for line in said if line and not _NOISE.match(line)][-_TAIL_LINES:]
    return " | ".join(lines) or "none"
