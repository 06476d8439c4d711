"""The tables of `bench_simplify.py`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from graphopt.report.console import report_console

CORRECT = 1e-3
"""The largest difference, relative to an output's peak, that counts as the same model.

Looser than graphopt's own tolerance, so that a peer which fuses in another order is not called
wrong; a wrong rewrite is off by far more.
"""
NOISE_FACTOR, NOISE_LIMIT = 3.0, 0.1
"""Or that many times what ONNX Runtime's own optimizer moves the original by, up to the limit."""
Row = dict[str, Any]
COLUMNS = (
    "tool",
    "nodes",
    "foreign",
    "MB",
    "CPU s",
    "simplify s",
    "peak MiB",
    "added MiB",
    "max abs",
    "max rel",
    "latency off",
    "latency on",
    "remarks",
)


def problems(row: Row) -> list[str]:
    """Why a result cannot be used, or is not the same model; nothing for a good one."""
    if "failure" in row:
        return [row["failure"]]
    found = []
    if row.get("invalid"):
        found.append(f"invalid: {row['invalid']}")
    if "run_error" in row:
        found.append(f"does not run: {row['run_error']}")
    if "check_failure" in row:
        found.append(f"check: {row['check_failure']}")
    allowed = max(CORRECT, min(NOISE_LIMIT, NOISE_FACTOR * float(row.get("noise_rel", 0.0))))
    if "max_rel" in row and not float(row["max_rel"]) <= allowed:
        found.append("WRONG outputs")
    if "nodes" not in row:
        found.append("not a model that onnx can read")
    found += [x for x in row.get("io_changed", ()) if not x.endswith("shapes")]
    return found


def remarks(row: Row) -> list[str]:
    """`problems`, and what a user may not care about."""
    found = problems(row)
    if "failure" in row:
        return found
    found += [f"{x} changed" for x in row.get("io_changed", ()) if x.endswith("shapes")]
    if "unchecked" in row:
        found.append(f"not compared: {row['unchecked']}")
    if not row["same_bytes_each_run"]:
        found.append("other bytes in each run")
    if row["second_run"] in ("metadata", "the graph"):
        found.append(f"a second run changes {row['second_run']}")
    elif row["second_run"] != "nothing":
        found.append(f"second run: {row['second_run']}")
    return found


def is_standard(model: Row, row: Row) -> bool:
    """Whether the result is good and has no operator outside ONNX that the original had not."""
    return not problems(row) and row["foreign"] <= model["foreign"]


def summarize(report: Row) -> Row:
    """Totals for each tool, graphopt against the best peer, ratios of CPU time."""
    models = report["models"]
    tools = {tool: _totals(models, tool) for tool in report["tools"]}
    summary: Row = {"original_nodes": sum(m["nodes"] for m in models), "tools": tools}
    summary["best_peer"] = {m["model"]: _against_best(m) for m in models}
    if "graphopt" in report["tools"]:
        summary["cpu_ratio"] = {
            peer: _ratios(models, peer) for peer in report["tools"] if peer != "graphopt"
        }
    return summary


def _totals(models: list[Row], tool: str) -> Row:
    rows = [(m, m["results"][tool]) for m in models]
    ran = [(m, row) for m, row in rows if "failure" not in row]
    good = [row for _, row in rows if not problems(row)]

    def middle(key: str) -> float | None:
        values = [row[key] for _, row in ran if key in row]
        return statistics.median(values) if values else None

    def most(key: str) -> float | None:
        return max((row[key] for _, row in ran), default=None)

    return {
        "nodes": sum(m["nodes"] if problems(row) else row["nodes"] for m, row in rows),
        "good": len(good),
        "sound": len(good) == len(rows),
        "foreign": sum(row.get("foreign", 0) for _, row in ran),
        "cpu_s_median": middle("cpu_s"),
        "cpu_s_max": most("cpu_s"),
        "cpu_s_total": sum(row["cpu_s"] for _, row in ran),
        "added_mib_max": most("added_mib"),
        "latency_off_median": middle("latency_off"),
        "latency_on_median": middle("latency_on"),
        "exact": sum(float(row.get("max_rel", 1)) == 0.0 for row in good),
        "settled": sum(row["second_run"] in ("nothing", "metadata") for _, row in ran),
    }


def _against_best(model: Row) -> Row:
    peers = {
        tool: row["nodes"]
        for tool, row in model["results"].items()
        if tool != "graphopt" and is_standard(model, row)
    }
    best = min(peers, key=lambda tool: peers[tool], default=None)
    found: Row = {"tool": best, "nodes": peers[best] if best is not None else model["nodes"]}
    own = model["results"].get("graphopt")
    if own is not None:
        found["graphopt"] = own["nodes"] if is_standard(model, own) else None
        found["at_most"] = found["graphopt"] is not None and found["graphopt"] <= found["nodes"]
    return found


def _ratios(models: list[Row], peer: str) -> Row:
    found = {}
    for model in models:
        own, other = model["results"]["graphopt"], model["results"][peer]
        if "failure" not in own and "failure" not in other:
            found[model["model"]] = own["cpu_s"] / other["cpu_s"]
    if not found:
        return {"median": None, "worst": None, "worst_model": None}
    worst = max(found, key=lambda name: found[name])
    return {
        "median": statistics.median(found.values()),
        "worst": found[worst],
        "worst_model": worst,
    }


def _cell(row: Row, key: str, form: str) -> str:
    if key not in row:
        return ""
    value = float(row[key])
    return "0" if value == 0.0 else format(value, form)


def _cells(tool: str, row: Row) -> tuple[str, ...]:
    told = "; ".join(remarks(row))
    if "failure" in row:
        return (tool, *[""] * (len(COLUMNS) - 2), told)
    return (
        tool,
        str(row.get("nodes", "")),
        str(row.get("foreign") or ""),
        f"{row['bytes'] / 1e6:.2f}",
        _cell(row, "cpu_s", ".2f"),
        _cell(row, "simplify_cpu_s", ".2f"),
        _cell(row, "peak_mib", ".0f"),
        _cell(row, "added_mib", ".0f"),
        _cell(row, "max_abs", ".1e"),
        _cell(row, "max_rel", ".1e"),
        _cell(row, "latency_off", ".2f"),
        _cell(row, "latency_on", ".2f"),
        told,
    )


def print_tables(report: Row) -> None:
    """Every result and the summary, on standard output."""
    console = report_console()
    table = Table("model", *COLUMNS)
    for model in report["models"]:
        table.add_row(
            escape(model["model"]),
            "-",
            str(model["nodes"]),
            str(model["foreign"] or ""),
            f"{model['bytes'] / 1e6:.2f}",
        )
        for tool, row in model["results"].items():
            table.add_row("", *map(escape, _cells(tool, row)))
        table.add_section()
    console.print(table)
    for line in _summary_lines(report):
        console.print(escape(line))


def markdown(report: Row) -> str:
    """The same as a page of Markdown."""
    lines = ["# Lossless simplifying compared", "", *_summary_lines(report), "", "## Models", ""]
    lines += _markdown_row(("model", *COLUMNS)), _markdown_row(["---"] * (len(COLUMNS) + 1))
    for model in report["models"]:
        size, foreign = f"{model['bytes'] / 1e6:.2f}", str(model["foreign"] or "")
        original = [model["model"], "original", str(model["nodes"]), foreign, size]
        lines.append(_markdown_row(original + [""] * (len(COLUMNS) + 1 - len(original))))
        for tool, row in model["results"].items():
            lines.append(_markdown_row(("", *_cells(tool, row))))
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _summary_lines(report: Row) -> list[str]:
    summary, number = report["summary"], len(report["models"])
    head = ("tool", "nodes left", "good", "foreign", "CPU s median", "max", "total")
    tail = ("added MiB max", "latency off", "on", "bit-exact", "settled")
    lines = [f"{number} models, {summary['original_nodes']} nodes.", ""]
    lines += _markdown_row((*head, *tail)), _markdown_row(["---"] * (len(head) + len(tail)))
    for tool, row in summary["tools"].items():
        cells = [f"{tool} {report['tools'][tool]}", row["nodes"], f"{row['good']}/{number}"]
        cells += [row["foreign"]]
        cells += [_short(row[key]) for key in ("cpu_s_median", "cpu_s_max", "cpu_s_total")]
        cells += [_short(row["added_mib_max"], 0)]
        cells += [_short(row[key]) for key in ("latency_off_median", "latency_on_median")]
        cells += [row["exact"], row["settled"]]
        lines.append(_markdown_row([str(cell) for cell in cells]))
    lines += [
        "",
        "A result that failed, is invalid or is wrong counts with the original's nodes. good: the",
        f"same inputs and outputs, valid, and within {CORRECT:g} of each output's peak (or "
        f"{NOISE_FACTOR:g} times what ONNX Runtime's optimizer moves it by). settled:",
        "a second run leaves the graph alone. Latency: after / before, in ONNX Runtime with its",
        "optimizer off and on, median over the models.",
        "",
    ]
    return lines + _best_lines(summary) + _ratio_lines(summary)


def _best_lines(summary: Row) -> list[str]:
    best = summary["best_peer"]
    total = sum(row["nodes"] for row in best.values())
    lines = [f"The best peer on each model, standard operators only: {total} nodes in all.", ""]
    lines += [
        _markdown_row(("model", "best peer", "nodes", "graphopt", "")),
        "|---|---|---|---|---|",
    ]
    for name, row in best.items():
        own = row.get("graphopt", "")
        verdict = "" if "at_most" not in row else ("ok" if row["at_most"] else "MORE")
        cells = (name, row["tool"] or "none", row["nodes"], own, verdict)
        lines.append(_markdown_row([str(cell) for cell in cells]))
    if any("at_most" in row for row in best.values()):
        met = sum(bool(row.get("at_most")) for row in best.values())
        lines += ["", f"graphopt leaves at most as many nodes on {met} of {len(best)} models."]
    return [*lines, ""]


def _ratio_lines(summary: Row) -> list[str]:
    return [
        f"CPU time graphopt / {peer}: median {_short(row['median'])}, worst "
        f"{_short(row['worst'])} ({row['worst_model']})."
        for peer, row in summary.get("cpu_ratio", {}).items()
    ]


def _short(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
