"""Programs in processes of their own, with a time limit, and what a process has used."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any


def run_child(command: Sequence[str], limit_s: float) -> str | None:
    """Runs `command` with its children on one thread; None, or how it failed, in one line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"timeout after {limit_s:g} s"
    if process.returncode < 0:
        return f"crash: {signal.Signals(-process.returncode).name}"
    if process.returncode:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        return f"error: {lines[-1][:200] if lines else process.returncode}"
    return None


def answer(command: Sequence[str], request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """What `command` writes of `request`, which it gets as JSON, into the file `result` of it.

    How it failed, if it did, is `failure`, beside what it had written until then.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        failure = run_child([*command, json.dumps({**request, "result": str(result)})], limit_s)
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text())
            return found if failure is None else {**found, "failure": failure}
        return {"failure": failure or "wrote nothing"}


class NotRunningError(Exception):
    """A program does not start; the text says why, in one line."""


def ask(command: Sequence[str]) -> str:
    """The last word that `command` prints.

    Raises:
        NotRunningError: if it cannot be started, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotRunningError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise NotRunningError(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout.split()[-1]


class cpu_limit:  # noqa: N801 (reads as the statement that it is)
    """Raises TimeoutError in its block, in the main thread, after so many CPU seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGPROF, self._end)
        signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)

    @staticmethod
    def _end(_: int, __: FrameType | None) -> None:
        raise TimeoutError


def cpu_seconds() -> float:
    """CPU time of this process, all threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory_kib(key: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the peak) of this process; `ru_maxrss` where there is no /proc.

    `ru_maxrss` also counts the process that this one was started from, up to its `exec`.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(x for x in status.read_text().splitlines() if x.startswith(f"{key}:"))
    return int(line.split()[1])


def use_one_core() -> None:
    """Keeps this process on one core, so that libraries start one thread and none spins idle."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def forget_peak() -> None:
    """Starts the peak of the resident memory anew, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak then includes that of the imports
