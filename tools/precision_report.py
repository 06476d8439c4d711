"""The page of `bench_precision.py`, and its judgement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
FP16, BF16 = "fp16", "bf16"
WISHED = 60.0
"""What every model should keep in fp16, in dB: those under it are listed with what can be had."""
HEAD = """# What fp16 and bf16 cost

Made by `tools/bench_precision.py`. Each model goes through `lossless,cast-precision`, is saved,
loaded again and compared with the original in fp32; a figure is the signal-to-noise ratio of the
worst output in dB, over all samples. These are the fixtures' own, drawn text for PP-OCR, files for
Magika, and noise for the others, most of which have random weights.

ONNX Runtime's CPU computes a graph of fp16 in fp32 and, with its optimizations off as well, takes
out the casts between nodes, so that nothing overflows and little but the weights is rounded. It
cannot be asked. *Rounded* is an equal graph in fp32 in which every tensor of fp16 goes through a
cast to fp16 and back: nodes compute in fp32 and store fp16, as the kernels of a GPU do. *Unseen* is
the same on samples that the pass was not given. *Evaluator* is the fp16 graph in onnx's reference
evaluator, all in fp16, but for sums of products and LayerNormalization, which are in fp32 and then
rounded; with the number of samples where the time limit ended it.

"""
LEGEND = """
## fp16

*Aim* is that of the pass: 60 dB, and 50 where data is multiplied with data, as attentions and gates
do. *In fp32*: the nodes that compute in it, with the reason of most of them. *Valid*: onnx.checker
takes the file, with shapes and types, and every node stands behind what it reads.
"""
LIMITS = """
## Under {wished:g} dB

*Weights*: the fp16 graph as ONNX Runtime's CPU runs it, in which little else is rounded. *Data*:
only the tensors between nodes are rounded, those that are fp16 in the result, and every weight is
that of the original. That is what storing data in fp16 costs by itself, whoever casts; weights that
are rounded together, to what a layer gives, make up for a part of it.
"""
FIT = """
## Weights that are rounded together

Rounded as above, with the nearest weights (`fit_weights=false`), and with those that the pass finds
where they gain on samples that it holds out. Noise is not taken for that.
"""
LOWER = """
## bf16

*Rounded* and *data* as above. numpy, which onnx's evaluator computes with, has no bf16.
"""


def types(row: Row) -> Mapping[str, Row]:
    """The results of a model by low type; nothing if it failed."""
    found: Mapping[str, Row] = row.get("types", {})
    return found


def broken(row: Row) -> list[str]:
    """What does not hold for a model, a line each."""
    if "failure" in row:
        return [row["failure"]]
    lines = []
    for to, cast in types(row).items():
        found = float(cast["rounded_db"])
        if cast["invalid"] is not None:
            lines.append(f"{to}: onnx.checker refuses it: {cast['invalid']}")
        if not cast["sorted"]:
            lines.append(f"{to}: a node stands before what it reads")
        if not is_finite(cast):
            lines.append(f"{to}: an output is NaN or infinite")
        elif found < cast["goal_db"]:
            limit = decibel(cast["data_db"])
            lines.append(
                f"{to}: {decibel(found)} dB, not {cast['goal_db']:g}; data alone leaves {limit}"
            )
    return lines


def is_finite(cast: Row) -> bool:
    """Whether no output is NaN or infinite on any sample, however it was computed."""
    ways = ("rounded_finite", "unseen_finite", "evaluator_finite")
    return all(cast.get(way, True) for way in ways)


def decibel(value: float | str | None) -> str:
    return "" if value is None else f"{float(value):.1f}"


def summary(rows: Mapping[str, Row]) -> list[str]:
    """What came of all models, in a few lines."""
    lines = []
    for to in (FP16, BF16):
        casts = {name: types(row)[to] for name, row in rows.items() if to in types(row)}
        if not casts:
            continue
        valid = sum(cast["invalid"] is None and cast["sorted"] for cast in casts.values())
        finite = sum(map(is_finite, casts.values()))
        reached = sum(float(c["rounded_db"]) >= c["goal_db"] for c in casts.values())
        whole = sum(not cast["kept"] for cast in casts.values())
        lines.append(
            f"- {to}: of {len(rows)} models {valid} are valid and sorted, {finite} have neither "
            f"NaN nor infinity in an output, {reached} keep what the pass aims at; {whole} have no "
            "node left in fp32."
        )
    found = [cast for row in rows.values() if (cast := types(row).get(FP16)) is not None]
    whole = sum(float(cast["rounded_db"]) >= WISHED for cast in found)
    lines.append(f"- {whole} keep {WISHED:g} dB or more in fp16.")
    evaluated = [cast for cast in found if "evaluator_db" in cast]
    lower = [float(cast["rounded_db"]) - float(cast["evaluator_db"]) for cast in evaluated]
    if lower:
        lines.append(
            f"- onnx's reference evaluator runs {len(evaluated)} of them; it finds at most "
            f"{max(lower):.1f} dB less than *rounded*."
        )
    return lines


def markdown(rows: Mapping[str, Row]) -> str:
    """The page docs/precision.md."""
    casts = {name: types(row)[FP16] for name, row in rows.items() if FP16 in types(row)}
    lower = {name: types(row)[BF16] for name, row in rows.items() if BF16 in types(row)}
    under = {name: cast for name, cast in casts.items() if float(cast["rounded_db"]) < WISHED}
    fitted = {name: cast for name, cast in casts.items() if cast["fit"]}
    found = [f"- {name}: {line}" for name, row in rows.items() for line in broken(row)]
    lines = [
        HEAD + "\n".join(summary(rows)),
        LEGEND,
        *_table(COLUMNS, [_cells(name, row) for name, row in rows.items()]),
        LIMITS.format(wished=WISHED),
        *_table(LIMIT_COLUMNS, [_limit_cells(*item, rows) for item in under.items()]),
        FIT,
        *_table(FIT_COLUMNS, [_fit_cells(*item) for item in fitted.items()]),
        LOWER,
        *_table(LOWER_COLUMNS, [_lower_cells(*item) for item in lower.items()]),
        "\n## What did not hold\n",
        *(found or ["Nothing."]),
    ]
    return "\n".join(lines) + "\n"


COLUMNS = ("model", "samples", "nodes", "in fp32", "MACs in fp32", "aim", "rounded", "unseen")
COLUMNS += ("evaluator", "finite", "valid")
LIMIT_COLUMNS = ("model", "samples", "aim", "rounded", "weights", "data")
FIT_COLUMNS = ("model", "layers", "nearest", "together", "nearest, unseen", "together, unseen")
LOWER_COLUMNS = ("model", "nodes", "in fp32", "MACs in fp32", "aim", "rounded", "data")
LOWER_COLUMNS += ("finite", "valid")


def _cells(name: str, row: Row) -> list[str]:
    cast = types(row).get(FP16)
    if cast is None:
        return [name, "**none**", *[""] * (len(COLUMNS) - 2)]
    cells = [name, row["samples"].partition(" (")[0], str(cast["nodes"]), *_kept(cast)]
    cells += [*_aim(cast), decibel(cast.get("unseen_db")), _evaluator(row, cast)]
    return [*cells, *_judged(cast)]


def _limit_cells(name: str, cast: Row, rows: Mapping[str, Row]) -> list[str]:
    figures = (decibel(cast[f"{what}_db"]) for what in ("rounded", "weights", "data"))
    return [name, rows[name]["samples"], f"{cast['goal_db']:g}", *figures]


def _fit_cells(name: str, cast: Row) -> list[str]:
    figures = (
        cast.get(f"{what}_db") for what in ("nearest", "rounded", "nearest_unseen", "unseen")
    )
    return [name, str(cast["fit"]["layers"]), *map(decibel, figures)]


def _lower_cells(name: str, cast: Row) -> list[str]:
    cells = [name, str(cast["nodes"]), *_kept(cast), *_aim(cast), decibel(cast["data_db"])]
    return [*cells, *_judged(cast)]


def _kept(cast: Row) -> tuple[str, str]:
    reason = next(iter(cast["reasons"]), None)
    kept = str(cast["kept"]) if reason is None else f"{cast['kept']}: {reason}"
    return kept, f"{cast['fp32_macs']:.1%}" if cast["fp32_macs"] else "0"


def _aim(cast: Row) -> tuple[str, str]:
    found, aim = float(cast["rounded_db"]), cast["goal_db"]
    told = decibel(found) if math.isfinite(found) else str(found)
    return f"{aim:g}", told if found >= aim else f"**{told}**"


def _evaluator(row: Row, cast: Row) -> str:
    if "evaluator_db" not in cast:
        return str(cast.get("evaluator", ""))
    count = cast["evaluator_samples"]
    return decibel(cast["evaluator_db"]) + (f" ({count})" if count < row["seen"] else "")


def _judged(cast: Row) -> tuple[str, str]:
    valid = cast["invalid"] is None and cast["sorted"]
    return "yes" if is_finite(cast) else "**no**", "yes" if valid else "**no**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *(list(row) for row in rows)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in lines]
