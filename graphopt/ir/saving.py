"""Writing a model: whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from graphopt.errors import GraphoptError, write_error
from graphopt.ir.external import initializer_tensors, is_external
from graphopt.ir.serialized import serialize, write_tensor
from graphopt.ir.weights import WITHOUT_BYTES, DataFileTensor, may_be_shape
from graphopt.ir.wire import LARGEST_MESSAGE_BYTES

# protobuf refuses a message of 2 GiB; the graph beside the weights needs room too.
EMBEDDED_LIMIT_BYTES = 2**31 - 2**26
# Smaller weights stay inside when the others go out, as onnx_ir has it.
EXTERNAL_ABOVE_BYTES = 256


def save(
    model: ir.Model, path: str | os.PathLike[str], *, external_data: bool | None = None
) -> int:
    """Writes `model` to `path`, atomically: on failure an existing file there is untouched.

    Args:
        external_data: True puts the weights into `<name>.data` beside the model, False keeps them
            inside. None (default) does so only when they would pass 2 GB inside, or when
            the model came with external data.

    Returns:
        The number of bytes written, external data included.

    Raises:
        GraphoptError: if the folder does not exist, cannot be written, or the disk is full.
    """
    if not isinstance(model, ir.Model):
        raise GraphoptError(
            f"cannot save a {type(model).__name__}",
            fix="give an onnx_ir.Model, as load(...) gives and optimize(...).model is",
        )
    path = writable_path(path)
    weights = list(initializer_tensors(model))
    outside = list(filter(is_external, weights))
    size = sum(tensor.nbytes for tensor in weights)
    if external_data is None:
        external_data = size > EMBEDDED_LIMIT_BYTES or bool(outside)
    if not external_data and size > EMBEDDED_LIMIT_BYTES:
        raise GraphoptError(
            f"{size:,} bytes of weights do not fit into one ONNX file",
            where=str(path),
            fix="write external data",
        )
    _hold_before_replacing(outside, path)
    with writing(path) as folder:
        data = _DataFile(f"{path.name}.data")
        content = serialize(model, data.put if external_data else None)
        if content.size > LARGEST_MESSAGE_BYTES:
            raise GraphoptError(
                f"the model is {content.size:,} bytes, which do not fit into one ONNX file",
                where=str(path),
                fix="external data takes the initializers; the rest must shrink"
                if external_data
                else "write external data",
            )
        if data.tensors:
            with (folder / data.name).open("wb") as file:
                data.write(file)
        with (folder / path.name).open("wb") as file:
            content.write(file)
        return sum(file.stat().st_size for file in folder.iterdir())


class _DataFile:
    """The file that takes the weights, one behind the other as onnx_ir writes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: list[ir.TensorProtocol] = []
        self._size = 0

    def put(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        """`tensor` as it is in this file; None if it stays inside."""
        if tensor.dtype in WITHOUT_BYTES or may_be_shape(tensor):
            return None
        if tensor.nbytes <= EXTERNAL_ABOVE_BYTES:
            return None
        placed = ir.ExternalTensor(
            self.name,
            self._size,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )
        self.tensors.append(tensor)
        self._size += tensor.nbytes
        return placed

    def write(self, file: BinaryIO) -> None:
        for tensor in self.tensors:
            write_tensor(tensor, tensor.nbytes, file)


def require_folder(folder: Path) -> None:
    """Raises GraphoptError if `folder`, where a file is to be written, is no folder."""
    if folder.is_dir():
        return
    if folder.exists():
        raise GraphoptError("is a file, no folder", where=str(folder), fix="name another place")
    raise GraphoptError("the output folder does not exist", where=str(folder), fix="create it")


def writable_path(path: str | os.PathLike[str]) -> Path:
    """Where a file named `path` is to be written: `path`, or what it links to.

    Raises:
        GraphoptError: if no file can be written there: no such folder, a folder or a device of
            that name, a file without write permission.
    """
    given = Path(path)
    try:
        path = given.resolve() if given.is_symlink() else given
        mode = given.stat().st_mode if given.exists() else None
    except OSError as error:
        raise write_error(given, error) from None
    require_folder(path.parent)
    if mode is not None and not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise GraphoptError(f"is {kind}", where=str(given), fix="name a file to write")
    if mode is not None and not mode & 0o222:  # root may write it all the same, but should not
        raise GraphoptError("is read-only", where=str(given), fix="name another file")
    if not os.access(path.parent, os.W_OK):
        raise GraphoptError(
            "the output folder cannot be written", where=str(path.parent), fix="name another place"
        )
    return path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A folder beside `path`; what the body writes into it is moved next to `path` at the end.

    The file named like `path` itself comes last. If anything fails, what was there is still there.
    """
    path = writable_path(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:50]}.", dir=path.parent))
    except OSError as error:
        raise write_error(path, error) from None
    try:
        yield folder
        _move(sorted(folder.iterdir(), key=lambda file: (file.name == path.name, file.name)), path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(files: list[Path], path: Path) -> None:
    """Moves `files` beside `path`; all or none, of which one alone is atomic by itself."""
    moved: list[tuple[Path, Path | None]] = []
    try:
        for file in files:
            target = path.parent / file.name
            backup = None
            if target.exists():
                shutil.copymode(target, file)
                if len(files) > 1:
                    backup = file.with_name(f"{file.name}.before")
                    os.link(target, backup)
            file.replace(target)
            moved.append((target, backup))
    except OSError:
        for target, backup in reversed(moved):
            if backup is None:
                target.unlink()
            else:
                backup.replace(target)
        raise


def _hold_before_replacing(tensors: Iterable[ir.ExternalTensor], path: Path) -> None:
    """Opens those of `tensors` whose files are about to be replaced: they stay readable."""
    targets = {path.resolve(), path.with_name(f"{path.name}.data").resolve()}
    resolved: dict[Path, Path] = {}
    for tensor in tensors:
        file = tensor.span.file.path if isinstance(tensor, DataFileTensor) else Path(tensor.path)
        if file not in resolved:
            resolved[file] = file.resolve()
        if resolved[file] not in targets:
            continue
        if isinstance(tensor, DataFileTensor):
            tensor.span.file.hold()
        else:
            tensor.numpy()  # mapped into memory, and a mapping outlives its file
