"""The process that loads TensorRT and builds one engine: a crash or a hang in it stays in it.

One engine only: after a build that failed for SM75, TensorRT-RTX 1.7 silently compiles the int8
Convs of the next model in the same process as float.

    python -m graphopt.emit.tensorrt._child MODULE FOLDER

reads `FOLDER/request.json`, logs to `FOLDER/log.txt`, and writes `FOLDER/result.json`, or what the
user did wrong to `FOLDER/error.json`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from graphopt.emit.tensorrt.builder import Log, build
from graphopt.emit.tensorrt.gpu import compute_capability
from graphopt.emit.tensorrt.monitor import write_progress
from graphopt.emit.tensorrt.parsing import find_complaints
from graphopt.emit.tensorrt.request import (
    ERROR_FILE,
    LOG_FILE,
    REQUEST_FILE,
    RESULT_FILE,
    BuildRequest,
)
from graphopt.errors import GraphoptError

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main(module: str, folder: Path) -> None:
    """Builds what the folder asks for."""
    faulthandler.enable()
    _end_with_parent()
    request = BuildRequest.from_json((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    log_file = folder / LOG_FILE
    with log_file.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
        try:
            work = (
                find_complaints
                if request.parse_only
                else partial(build, gpu=compute_capability, tell=partial(write_progress, folder))
            )
            result = work(_load(module), request, Log(_sink(file)))
        except GraphoptError as error:
            told = {"what": error.what, "where": error.where, "fix": error.fix}
            (folder / ERROR_FILE).write_text(json.dumps(told), encoding="utf-8")
            return
    (folder / RESULT_FILE).write_text(result.to_json(), encoding="utf-8")


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise GraphoptError(
            f"the package '{module}' is installed but does not load: {error}",
            fix="install it again, with the CUDA version that it is for",
        ) from None


def _sink(file: TextIO) -> Any:
    def write(line: str) -> None:
        # A full disk must not end the build: only the record of a crash is lost.
        with suppress(OSError):
            file.write(line + "\n")

    return write


def _end_with_parent() -> None:
    """Has this process killed when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
