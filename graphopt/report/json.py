"""Reports as JSON, for scripts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.ir import writing


def to_json(report: Any) -> dict[str, Any]:
    """A report (any dataclass of them, or a mapping) as what JSON can hold.

    JSON has no infinity: an infinite or undefined number becomes the string "inf", "-inf", "nan".
    """
    plain = _plain(report)
    if not isinstance(plain, dict):
        raise TypeError(f"{type(report).__name__} is not a report")
    return plain


def dumps(report: Any) -> str:
    """`to_json` as text, indented."""
    return json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(report: Any, path: str | Path) -> None:
    """Writes `report` to `path`, whole or not at all."""
    path = Path(path)
    with writing(path) as folder:
        (folder / path.name).write_text(dumps(report), encoding="utf-8", errors="replace")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        names += [name for name, kind in vars(type(value)).items() if isinstance(kind, property)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [_plain(item) for item in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a report holds a {type(value).__name__}, which JSON cannot")
