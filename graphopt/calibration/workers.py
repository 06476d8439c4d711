"""Where samples run: threads of this process, processes of this machine, or a Dask cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Generic
from uuid import uuid4

import onnx_ir as ir

from graphopt.calibration.watching import S, Task, Watch
from graphopt.data.feeds import Feed
from graphopt.errors import GraphoptError
from graphopt.ir import load, save

Window = Iterable[Feed]
"""Samples that run one after the other, in one place."""

DASK = "dask="
"""How the text of a backend begins; an address follows."""
CONNECT_SECONDS = 10
MODEL = "model.onnx"


@dataclass(frozen=True)
class Workers(Generic[S]):
    """Some that can run a task at the same time.

    Attributes:
        submit: starts a window of samples.
        number: how many run at once.
    """

    submit: Callable[[Window], Future[dict[str, S]]]
    number: int

    def map(self, windows: Iterable[Window]) -> Iterator[dict[str, S]]:
        """The statistics of each window, as they come; of few windows at a time.

        `windows` is read here, in the thread that asks for results.
        """
        pending: set[Future[dict[str, S]]] = set()
        try:
            for window in windows:
                pending.add(self.submit(window))
                if len(pending) > self.number:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def threads(model: ir.Model, task: Task[S], most: int) -> Iterator[Workers[S]]:
    """As many threads as there are processors, up to `most`.

    What they do, ONNX Runtime's operators and numpy's loops, does not hold Python's lock.
    """
    import joblib

    number = max(1, min(most, joblib.cpu_count()))
    watch = Watch(model, task)
    pool = ThreadPoolExecutor(number)
    try:
        yield Workers(lambda window: pool.submit(watch.run, window), number)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def processes(model: ir.Model, task: Task[S], number: int) -> Iterator[Workers[S]]:
    """`number` processes of joblib's; they read the model from a temporary file, once each."""
    from joblib.externals.loky import get_reusable_executor

    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / MODEL)
        place = _Folder(folder)
        executor = get_reusable_executor(max_workers=number)
        try:
            yield Workers(lambda window: executor.submit(_run, place, task, window), number)
        except BrokenProcessPool:
            raise GraphoptError(
                "a calibration process died, perhaps for lack of memory", fix="use fewer jobs"
            ) from None


@contextmanager
def dask(model: ir.Model, task: Task[S], address: str) -> Iterator[Workers[S]]:
    """The workers of the Dask cluster at `address`; the model is sent to each of them once.

    Raises:
        GraphoptError: if distributed is not installed, there is no cluster with workers, or they
            lack graphopt.
    """
    with _client(address) as client:
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        number = sum(client.nthreads().values())
        if not number:
            raise GraphoptError("the Dask cluster has no workers", where=address)
        for worker, found in sorted(client.run(find_spec, "graphopt").items()):
            if found is None:
                raise GraphoptError(
                    "graphopt is not installed there", where=f"Dask worker {worker}"
                )
        parcel = _sent(client, _Parcel.of(model))
        executor = client.get_executor(pure=False)

        def submit(window: Window) -> Future[dict[str, S]]:
            future: Future[dict[str, S]] = executor.submit(
                _run, parcel, task, _sent(client, window, broadcast=False)
            )
            return future

        try:
            yield Workers(submit, number)
        except (CommClosedError, KilledWorker, CancelledError):
            raise GraphoptError(
                "a worker of the Dask cluster is lost, perhaps for lack of memory", where=address
            ) from None


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise GraphoptError(
            "a Dask cluster needs the package distributed",
            where=f"backend '{DASK}{address}'",
            fix="pip install graphopt[dask]",
        ) from None
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise GraphoptError(
            f"no Dask scheduler answers ({' '.join(str(error).split())})",
            where=f"backend '{DASK}{address}'",
        ) from None


def _sent(client: Any, data: Any, *, broadcast: bool = True) -> Any:
    """`data` on the workers, by a route made for much of it; a list in a list is one thing."""
    return client.scatter([data], broadcast=broadcast, hash=False)[0]


@dataclass(frozen=True)
class _Folder:
    """A model in a folder of this machine."""

    path: str

    @contextmanager
    def model(self) -> Iterator[ir.Model]:
        yield load(Path(self.path) / MODEL)


@dataclass(frozen=True)
class _Parcel:
    """A model as the files that it is saved in."""

    key: str
    files: Mapping[str, bytes] = field(compare=False, repr=False)

    @classmethod
    def of(cls, model: ir.Model) -> _Parcel:
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder) / MODEL)
            files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        return cls(uuid4().hex, files)

    @contextmanager
    def model(self) -> Iterator[ir.Model]:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            yield load(Path(folder) / MODEL)


def _run(place: _Folder | _Parcel, task: Task[S], window: Window) -> dict[str, S]:
    """What a worker does; the model stays ready for its next window."""
    with _LOCK:
        watch: Watch[S] = _ready(place, task)
    return watch.run(window)


_LOCK = Lock()
"""Threads of a Dask worker share the model that is ready."""


@lru_cache(maxsize=1)
def _ready(place: _Folder | _Parcel, task: Task[Any]) -> Watch[Any]:
    with place.model() as model:
        return Watch(model, task)
