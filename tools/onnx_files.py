"""The models that a tool is given, and how it knows them again."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path


def onnx_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the ONNX files of the folders, among `paths`; ends the program if none is."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            sys.exit(f"{path}: no such file or folder")
        found += sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if not found:
        sys.exit("no ONNX file found")
    return found


def digest(model: Path) -> str:
    """The bytes of `model` in a word."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:16]
