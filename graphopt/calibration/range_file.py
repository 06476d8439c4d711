"""Ranges in a file that people can read and edit.

    {
      "format": "graphopt ranges",
      "version": 1,
      "model": "4c1d...",
      "tensors": {
        "conv1_out": {"low": 0.0, "high": 6.0, "method": "mse", "count": 131072}
      }
    }

`model` is the fingerprint of the model that was calibrated; without it, the names alone must fit.
`low` and `high` are what is kept of the tensor's values; `method` and `count`, the number of values
that were counted, say how they came about and may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt.calibration.fingerprint import fingerprint
from graphopt.calibration.ranges import Range
from graphopt.errors import GraphoptError, did_you_mean
from graphopt.ir import writing

FORMAT = "graphopt ranges"
VERSION = 1
HAND = "by hand"
"""The method of a range that does not name one."""


@dataclass(frozen=True)
class TensorRange:
    """The range of a tensor, and how it came about.

    Attributes:
        method: the method that chose it.
        count: how many values it saw; None if nobody says.
    """

    range: Range
    method: str = HAND
    count: int | None = None


def save_ranges(path: Path, model: ir.Model, ranges: Mapping[str, TensorRange]) -> None:
    """Writes `ranges`, by the name of the tensor, atomically.

    Args:
        model: the model that was calibrated, as it was then.

    Raises:
        GraphoptError: if the file cannot be written.
    """
    head = {"format": FORMAT, "version": VERSION, "model": fingerprint(model)}
    lines = ",\n".join(f"    {json.dumps(n)}: {json.dumps(_row(r))}" for n, r in ranges.items())
    text = json.dumps(head, indent=2)[:-2] + ',\n  "tensors": {\n' + lines + "\n  }\n}\n"
    with writing(path) as folder:
        (folder / path.name).write_text(text, encoding="utf-8")


def _row(entry: TensorRange) -> dict[str, Any]:
    row = {"low": entry.range.low, "high": entry.range.high, "method": entry.method}
    return row if entry.count is None else {**row, "count": entry.count}


def load_ranges(path: Path, model: ir.Model, needed: Iterable[str] = ()) -> dict[str, TensorRange]:
    """The ranges in the file `path`, by the name of the tensor.

    Args:
        model: the model that they are for, as it was when they were saved.
        needed: tensors that must have a range.

    Raises:
        GraphoptError: if it is no such file or one for another model, an entry is not a range of a
            tensor of the main graph, or a needed tensor is missing.
    """
    content = _read(path)
    where = str(path)
    _check_keys(content, ("format", "version", "model", "tensors"), where)
    if content.get("format") != FORMAT or not isinstance(content.get("tensors"), dict):
        raise GraphoptError("is not a file of ranges", where=where)
    if content.get("version") != VERSION:
        raise GraphoptError(
            f"is of version {content.get('version')}, and this graphopt reads version {VERSION}",
            where=where,
            fix="calibrate again",
        )
    ranges = {name: _entry(row, f"{where}: '{name}'") for name, row in content["tensors"].items()}
    if "model" in content and content["model"] != fingerprint(model):
        raise GraphoptError(
            "holds the ranges of another model, or of this one before other passes",
            where=where,
            fix="calibrate again, or delete its line 'model' if its tensors are the same",
        )
    names = list(ir.convenience.create_value_mapping(model.graph))
    for name in ranges:
        if name not in names:
            raise GraphoptError(
                f"there is no tensor '{name}' in the main graph",
                where=where,
                fix=_hint(name, names),
            )
    for name in needed:
        if name not in ranges:
            raise GraphoptError(
                f"holds no range for the tensor '{name}'", where=where, fix="calibrate again"
            )
    return ranges


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise GraphoptError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise GraphoptError(f"is not JSON ({error})", where=str(path)) from None
    if not isinstance(content, dict):
        raise GraphoptError("is not a file of ranges", where=str(path))
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which no key may come twice: one of the two would be lost unseen."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' comes twice")
    return result


def _check_keys(row: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in row:
        if key not in known:
            raise GraphoptError(
                f"unknown key '{key}'", where=where, fix=did_you_mean(key, list(known))
            )


def _entry(row: Any, where: str) -> TensorRange:
    if not isinstance(row, dict):
        raise GraphoptError('is not an object such as {"low": 0.0, "high": 6.0}', where=where)
    _check_keys(row, ("low", "high", "method", "count"), where)
    for key in ("low", "high"):
        if not _is_number(row.get(key)):
            raise GraphoptError(f"'{key}' is {row.get(key)!r}, not a number", where=where)
    method, count = row.get("method", HAND), row.get("count")
    if not isinstance(method, str):
        raise GraphoptError(f"'method' is {method!r}, not a text", where=where)
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
        raise GraphoptError(f"'count' is {count!r}, not a number of values", where=where)
    try:
        return TensorRange(Range(float(row["low"]), float(row["high"])), method, count)
    except (ValueError, OverflowError) as error:
        raise GraphoptError(str(error), where=where) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _hint(name: str, names: list[str]) -> str:
    hint = did_you_mean(name, names)
    return hint if hint.startswith("did") else "`graphopt inspect --json` lists the nodes"
