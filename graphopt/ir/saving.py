"""Writing a model: whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir.loading import external_tensors

# protobuf refuses a message of 2 GiB; the graph beside the weights needs room too.
EMBEDDED_LIMIT_BYTES = 2**31 - 2**26


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
    path = require_folder(path)
    size = weight_bytes(model)
    if external_data is None:
        external_data = (
            size > EMBEDDED_LIMIT_BYTES or next(external_tensors(model), None) is not None
        )
    if not external_data and size > EMBEDDED_LIMIT_BYTES:
        raise GraphoptError(
            f"{size:,} bytes of weights do not fit into one ONNX file",
            where=str(path),
            fix="write external data",
        )
    with writing(path) as folder:
        if external_data:
            ir.save(model, folder / path.name, external_data=f"{path.name}.data")
        else:
            content = ir.to_proto(embedded(model)).SerializeToString(deterministic=True)
            (folder / path.name).write_bytes(content)
        return sum(file.stat().st_size for file in folder.iterdir())


def require_folder(path: str | os.PathLike[str]) -> Path:
    """`path`, if a file could be written there."""
    path = Path(path)
    if not path.parent.is_dir():
        raise GraphoptError(
            "the output folder does not exist", where=str(path.parent), fix="create it"
        )
    if path.is_dir():
        raise GraphoptError("is a folder", where=str(path), fix="name a file to write")
    if not os.access(path.parent, os.W_OK):
        raise GraphoptError("the output folder cannot be written", where=str(path.parent))
    return path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A folder beside `path`; what the body writes into it is moved next to `path` at the end.

    The file named like `path` itself comes last. If anything fails, nothing is moved.
    """
    path = require_folder(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _write_error(path, error) from None
    try:
        yield folder
        for file in sorted(folder.iterdir(), key=lambda file: (file.name == path.name, file.name)):
            file.replace(path.parent / file.name)
    except OSError as error:
        raise _write_error(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def weight_bytes(model: ir.Model) -> int:
    """The bytes of all initializers, in all graphs."""
    return sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def embedded(model: ir.Model) -> ir.Model:
    """`model` with its external data in memory: itself if it has none, otherwise a copy."""
    if next(external_tensors(model), None) is None:
        return model
    model = model.clone()
    return ir.external_data.load_to_model(model)


def _write_error(path: Path, error: OSError) -> GraphoptError:
    return GraphoptError(
        f"cannot be written ({error.strerror or error})",
        where=str(path),
        fix="free some space or choose another place; nothing was changed",
    )
