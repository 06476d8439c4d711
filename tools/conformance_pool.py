"""Processes that each check many models; one that hangs or dies is charged to its model."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from conformance_cases import Case

from graphopt.errors import GraphoptError

START_LIMIT = 120.0
"""Seconds that a new process has for its imports."""


@dataclass(frozen=True)
class Task:
    """A case in one form."""

    case: Case
    form: str


@dataclass(frozen=True)
class Row:
    """What came of a task. `status` is one of conformance_check.STATUSES, or `absent`: a case that
    has no such form."""

    suite: str
    name: str
    form: str
    status: str
    detail: str
    modified: bool
    seconds: float


@dataclass(frozen=True)
class Settings:
    """What is the same for all tasks: see the options of conformance.py."""

    passes: str
    twice: bool
    keep: Path | None


def run_tasks(
    tasks: Sequence[Task], settings: Settings, *, jobs: int, limit: float
) -> Iterator[Row]:
    """Checks `tasks` in `jobs` processes, `limit` seconds each; rows in the order they end.

    Raises:
        GraphoptError: if a process does not even start.
    """
    waiting = list(reversed(tasks))
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < min(jobs, len(tasks)):
                workers.append(_Worker(settings))
            for worker in list(workers):
                if worker.task is None and worker.ready and not waiting:
                    worker.stop()
                    workers.remove(worker)
                elif worker.task is None and worker.ready:
                    worker.start(waiting.pop(), limit)
            yield from _listen(workers)
    finally:
        for worker in workers:
            worker.kill()


def _listen(workers: list[_Worker]) -> Iterator[Row]:
    """Waits until something happens and yields what tasks ended; removes workers that died."""
    if not workers:
        return
    soonest = min(worker.deadline for worker in workers)
    wait([worker.connection for worker in workers], max(0.0, soonest - time.monotonic()))
    for worker in list(workers):
        row = worker.hear()
        if row is not None:
            yield row
        if worker.gone:
            workers.remove(worker)


class _Worker:
    """A process, and the task that it is at."""

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_work, args=(other, settings), daemon=True
        )
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # the processes are as many as the cores already
        try:
            self._process.start()
        finally:
            if threads is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = threads
        other.close()
        self.task: Task | None = None
        self.ready = False
        self.gone = False
        self.deadline = time.monotonic() + START_LIMIT
        self._stage = "start"
        self._since = 0.0
        self._limit = START_LIMIT

    def start(self, task: Task, limit: float) -> None:
        self.task, self._stage, self._limit = task, "start", limit
        self._since = time.monotonic()
        self.deadline = self._since + limit
        try:
            self.connection.send(task)
        except OSError:
            return  # it died between tasks; `hear` finds out

    def hear(self) -> Row | None:
        """What the process has to say; a row if its task has ended, one way or another."""
        row: Row | None = None
        try:
            while row is None and self.connection.poll():
                row = self._message(*self.connection.recv())
        except (EOFError, OSError):
            self._process.join(10)
            return self._died(_cause(self._process.exitcode))
        if row is None and time.monotonic() >= self.deadline:
            self.kill()
            return self._died(f"it took over {self._limit:g} s")
        return row

    def _message(self, kind: str, *values: Any) -> Row | None:
        if kind == "ready":
            self.ready, self.deadline = True, float("inf")
        elif kind == "stage":
            (self._stage,) = values
        else:
            return self._row(*values)
        return None

    def _died(self, cause: str) -> Row:
        self.gone = True
        if self.task is None:
            raise GraphoptError(f"a process for checking models did not start: {cause}")
        if self._stage == "original":
            return self._row("not-checked", f"the engine fails on the original: {cause}", False)
        return self._row("crash", f"{cause}, at stage '{self._stage}'", False)

    def _row(self, status: str, detail: str, modified: bool) -> Row:
        assert self.task is not None
        case, form = self.task.case, self.task.form
        self.task, self.deadline = None, float("inf")
        seconds = time.monotonic() - self._since
        return Row(case.suite, case.name, form, status, detail, modified, seconds)

    def stop(self) -> None:
        self.connection.close()
        self._process.join(10)
        self.kill()

    def kill(self) -> None:
        self.gone = True
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"the process died of signal {-exitcode}"
    return f"the process ended with status {exitcode}"


def _work(connection: Connection, settings: Settings) -> None:
    """The life of a process: it imports what it needs once, then checks task after task."""
    from conformance_cases import make_probe
    from conformance_check import Original, verify

    from graphopt.pipeline.text import parse

    pipeline = parse(settings.passes)
    connection.send(("ready",))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        probe = make_probe(task.case, task.form)
        if probe is None:
            connection.send(("done", "absent", "", False))
            continue
        connection.send(("stage", "original"))
        original = Original(probe.proto, probe.feeds)
        outcome = verify(
            original,
            pipeline,
            twice=settings.twice,
            stage=lambda name: connection.send(("stage", name)),
        )
        if settings.keep is not None and outcome.bad:
            _keep(settings.keep, task, probe.proto, outcome.result)
        connection.send(("done", outcome.status, outcome.detail, outcome.modified))


def _keep(folder: Path, task: Task, proto: Any, result: bytes | None) -> None:
    name = f"{task.case.suite}.{task.case.name}.{task.form}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
    if result is not None:
        (folder / f"{name}.result.onnx").write_bytes(result)
