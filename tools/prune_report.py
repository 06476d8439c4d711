"""The tables of `bench_prune.py`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from graphopt.report.console import report_console

FP32, FP64 = 1e-6, 1e-9
"""How far an output may be off, relative to its peak."""
STYLES = ("raw", "legacy", "dynamo")
HEAD = """# What prune-channels reaches

Made by `tools/bench_prune.py`. At 30% and 50% of the channels of every group, by how many percent
the multiply-accumulates and the parameters fall. *Exact*: the largest difference of an output from
the original with the same channels silenced, relative to its peak, at 50%: in ONNX Runtime in
float32, and in float64 in onnx's reference evaluator ("-" where that cannot run the model). With
fewer channels ONNX Runtime's kernels sum in another order. Where it exceeds 1e-6 by that, float32
is judged by an evaluation that rounds what each node gives to float32, and sums in float64.
*Sizes*: how many other sizes of free height, width, length and batch gave the same. *Seconds*: CPU
time to prepare the graph and to find the groups.
"""


def is_exact(row: Mapping[str, Any]) -> bool:
    """Whether every cut of a model is exact."""
    return "failure" not in row and all(_exact(cut) for cut in row["cuts"].values())


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """How many models are exact, and for which ONNX Runtime's order of sums matters."""
    exact = [name for name, row in rows.items() if is_exact(row)]
    found = {
        name: [size for cut in rows[name]["cuts"].values() for size in _sizes(cut)]
        for name in exact
    }
    over = [
        f"{name} ({max(size['fp32'] for size in sizes):.0e}; whatever the order "
        f"{max(size.get('rounded', 0.0) for size in sizes):.0e})"
        for name, sizes in found.items()
        if any(size["fp32"] > FP32 for size in sizes)
    ]
    return (
        f"{len(exact)} of {len(rows)} models are exact, up to {FP32:g} in float32 and {FP64:g} in "
        "float64, in both cuts and at all sizes. Off by more in ONNX Runtime, by the order of its "
        f"sums: {', '.join(over) or 'none'}."
    )


def _sizes(cut: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The differences at each size that the original runs at."""
    return [cut, *(size for size in cut["other_sizes"] if not isinstance(size, str))]


def _exact(cut: Mapping[str, Any]) -> bool:
    return "failure" not in cut and all(map(_same, _sizes(cut)))


def _same(size: Mapping[str, Any]) -> bool:
    narrow = min(size["fp32"], size.get("rounded", float("inf")))
    return narrow <= FP32 and size.get("fp64", 0.0) <= FP64


def _falls(row: Mapping[str, Any], cut: Mapping[str, Any]) -> tuple[float, float]:
    macs, parameters = (100 * (1 - cut[key] / max(row[key], 1)) for key in ("macs", "parameters"))
    return macs, parameters


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    if "failure" in row:
        return [name, str(row["failure"]), *[""] * 7]
    cells = [name, str(row["nodes"]), str(row["groups"])]
    for cut in row["cuts"].values():
        if "failure" in cut:
            cells.append(str(cut["failure"]))
        else:
            macs, parameters = _falls(row, cut)
            cells.append(f"{macs:.0f} / {parameters:.0f}")
    last = list(row["cuts"].values())[-1]
    if "failure" in last:
        return [*cells, "", "", "", ""]
    wide = f"{last['fp64']:.0e}" if "fp64" in last else "-"
    sizes = last["other_sizes"]
    same = len(_sizes(last)) - 1
    seconds = row["prepare_cpu_s"] + row["group_cpu_s"]
    exact = "yes" if is_exact(row) else "**no**"
    ran = f"{same} of {len(sizes)}" if sizes else ""
    return [*cells, f"{exact}: {last['fp32']:.0e}, {wide}", ran, f"{seconds:.2f}"]


COLUMNS = ("model", "nodes", "groups", "30%", "50%", "exact: fp32, fp64", "sizes", "seconds")


def markdown(rows: Mapping[str, Mapping[str, Any]], peer: Mapping[str, Any]) -> str:
    """The page docs/pruning-coverage.md."""
    lines = [HEAD, verdict(rows) + "\n"]
    lines += _table(COLUMNS, [_cells(name, row) for name, row in rows.items()])
    if peer:
        lines += ["", "## Beside Torch-Pruning", "", _PEER]
        lines += _table(
            ("net", "Torch-Pruning, 50%", "exact", "prune-channels, 50%", "exact"),
            [_peer_cells(name, row, rows) for name, row in peer.items()],
        )
    lines += ["", "## Why channels stay", "", _KEPT]
    lines += _table(
        ("model", "channels that stay, by operator"),
        [(name, _why(row)) for name, row in rows.items() if "kept" in row],
    )
    return "\n".join(lines) + "\n"


_PEER = """Torch-Pruning prunes the PyTorch net that the files were exported from: half of the
channels by magnitude, everything but the last layer. Its cut is checked as ours is: the channels
are silenced in a copy of the net, whose norms are over those that stay.
"""
_KEPT = """Positions along the channel axes of weights that no group holds. `graphopt groups` names
the nodes.
"""


def _table(head: tuple[str, ...], rows: list[Any]) -> list[str]:
    rule = "|" + "---|" * len(head)
    return [f"| {' | '.join(cells)} |" for cells in [head]] + [
        rule,
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]


def _peer_cells(name: str, row: Mapping[str, Any], rows: Mapping[str, Any]) -> list[str]:
    ours = next((rows[key] for s in STYLES if (key := f"{name}.{s}") in rows), None)
    cells = [name]
    for result in (row, ours):
        if result is None or "failure" in result:
            cells += ["fails", str(result["failure"])[:90] if result else ""]
            continue
        cut = result["cuts"]["0.5"]
        if "failure" in cut:
            cells += ["fails", str(cut["failure"])[:90]]
            continue
        macs, parameters = _falls(result, cut)
        exact = is_exact(result) if result is ours else cut["fp64"] <= FP64
        worst = cut.get("fp64", cut.get("fp32", 0.0))
        wrong = "no: an output has another shape" if worst == float("inf") else f"no: {worst:.0e}"
        cells += [f"{macs:.0f} / {parameters:.0f}", "yes" if exact else wrong]
    return cells


def _why(row: Mapping[str, Any]) -> str:
    """`graph output 1000, Gather 256`: the operators that keep channels, without node names."""
    counts: Counter[str] = Counter()
    for kept in row["kept"]:
        counts[re.sub(r" '[^']*'", "", kept["reason"])] += kept["channels"]
    return "; ".join(f"{reason}: {number}" for reason, number in counts.most_common())


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    console = report_console()
    table = Table(*COLUMNS)
    for name, row in rows.items():
        table.add_row(*_cells(name, row))
    console.print(table)
    console.print(verdict(rows))
