"""Writing a folder: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import GraphoptError, write_error

METADATA_FILE = "metadata.json"
# What tells a bundle from any other folder.
FORMAT = "graphopt-bundle"


@contextmanager
def replacing_folder(path: Path, keep: Path) -> Iterator[Path]:
    """An empty folder to write into, which becomes `path` if the body succeeds.

    Args:
        path: nothing, an empty folder, or an older bundle, which is replaced.
        keep: a file that must not be in it.

    Raises:
        GraphoptError: if something else is there, or it cannot be written.
    """
    _require_replaceable(path, keep)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name[:50]}.", dir=path.parent))
    except OSError as error:
        raise write_error(path, error) from None
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(scratch / "old")
        try:
            new.rename(path)
        except OSError:
            if (scratch / "old").exists():
                (scratch / "old").rename(path)
            raise
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _require_replaceable(path: Path, keep: Path) -> None:
    from graphopt.ir.saving import require_folder

    require_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise GraphoptError("the output folder cannot be written", where=str(path.parent))
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise GraphoptError("is not a folder", where=str(path), fix="name a folder to write")
    if any(path.iterdir()) and not _is_bundle(path):
        raise GraphoptError(
            "holds something that is no bundle", where=str(path), fix="name another folder"
        )
    if path.resolve() in keep.resolve().parents:
        raise GraphoptError("holds the model itself", where=str(path), fix="name another folder")


def _is_bundle(path: Path) -> bool:
    try:
        told = json.loads((path / METADATA_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("format") == FORMAT
