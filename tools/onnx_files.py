"""The models that a tool is given, and how it knows them again."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def onnx_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the ONNX files of the folders, among `paths`.

    Ends the program if there is none, or if two have one name, for results are kept by name.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            sys.exit(f"{path}: no such file or folder")
        found += sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if not found:
        sys.exit("no ONNX file found")
    found = list(dict.fromkeys(found))
    names = Counter(path.stem for path in found)
    alike = [str(path) for path in found if names[path.stem] > 1]
    if alike:
        sys.exit(f"models of one name, by which results are kept: {', '.join(alike)}")
    return found


def digest(model: Path) -> str:
    """The bytes of `model` in a word."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:16]
