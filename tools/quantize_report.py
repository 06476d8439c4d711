"""The tables of `bench_quantize.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from graphopt.report.console import report_console

Row = dict[str, Any]
COLUMNS = (
    "tool",
    "score",
    "change",
    "SQNR dB",
    "agrees %",
    "MB",
    "CPU s",
    "peak MiB",
    "TensorRT-RTX",
)
CPU_COLUMNS = (*COLUMNS[:-1], "optimized", "latency")
SHARE = 0.6
PLACES = {
    "TensorRT": (
        "TensorRT-RTX: the Conv, Gemm and MatMul nodes whose kernel is int8, of all; or why it",
        "refuses the model. The hard nets are those of `tools/hard_nets.py`.",
    ),
    "CPU": (
        "Optimized: the score with the optimizations on; latency: of one sample, with the",
        "optimizations on, relative to the float model's in the same run.",
    ),
}


def cells(name: str, row: Row, task: Row, columns: Sequence[str]) -> list[str]:
    """A result as the cells of a line."""
    failure = row.get("failure") or row.get("score_failure")
    if failure:
        return [name, *[""] * (len(columns) - 2), failure]
    return [
        name,
        f"{row['score']:.2f}",
        f"{row['score'] - task['score']:+.2f}",
        f"{row['sqnr_db']:.1f}",
        f"{row['agreement']:.1f}",
        f"{row['bytes'] / 1e6:.2f}",
        f"{row['cpu_s']:.1f}",
        f"{row['peak_mib']:.0f}",
        *_where_it_runs(row, columns),
    ]


def _where_it_runs(row: Row, columns: Sequence[str]) -> list[str]:
    if columns is CPU_COLUMNS:
        return [f"{row['score_optimized']:.2f}", f"{row['latency_ratio']:.2f}"]
    return [engine_cell(row.get("engine", {}))]


def engine_cell(engine: Row) -> str:
    """`int8 12 of 12`, or why there is no engine."""
    if "failure" in engine:
        return str(engine["failure"])
    if "nodes" not in engine:
        return ""
    return f"int8 {engine['nodes'].get('int8', 0)} of {sum(engine['nodes'].values())}"


def integer_nodes(row: Row) -> int:
    """How many nodes TensorRT computes in int8; 0 for a result that it does not take."""
    return int(row.get("engine", {}).get("nodes", {}).get("int8", 0))


def best_peer(task: Row) -> tuple[str, float] | None:
    """The peer of the best SQNR, among those whose results TensorRT computes in int8.

    That is at least SHARE of the nodes that any tool gets into int8: scales that TensorRT cannot
    use, such as those of data by channel, look well in SQNR and are computed in float.
    """
    rows = task["results"]
    enough = SHARE * max(map(integer_nodes, rows.values()), default=0)
    found = {
        name: row["sqnr_db"]
        for name, row in rows.items()
        if not name.startswith("graphopt") and "sqnr_db" in row
        if 0 < enough <= integer_nodes(row)
    }
    best = max(found, key=lambda name: found[name], default=None)
    return None if best is None else (best, found[best])


def verdicts(task: Row) -> list[str]:
    """For each of graphopt's results: how far the score fell, and dB over the best peer."""
    lines = []
    best = best_peer(task)
    for name, row in task["results"].items():
        if not name.startswith("graphopt") or "score" not in row:
            continue
        line = f"{task['task']}: {name} {row['score'] - task['score']:+.2f} points"
        if best is not None:
            line += f", {row['sqnr_db'] - best[1]:+.1f} dB over the best peer ({best[0]})"
        lines.append(line)
    return lines


def _columns(report: Row) -> tuple[str, ...]:
    return CPU_COLUMNS if report["target"] == "onnxruntime-cpu" else COLUMNS


def _title(task: Row) -> str:
    if "missing" in task:
        return f"{task['task']}: left out: {task['missing']}"
    samples = f"{task['samples']:,} samples"
    return f"{task['task']}: float {task['metric']} {task['score']:.2f} over {samples}"


def print_tables(report: Row) -> None:
    """Every result, on standard output."""
    console = report_console()
    columns = _columns(report)
    for task in report["tasks"]:
        console.print(escape(_title(task)))
        if "results" in task:
            table = Table(*columns)
            for name, row in task["results"].items():
                table.add_row(*map(escape, cells(name, row, task, columns)))
            console.print(table)
    for task in report["tasks"]:
        for line in verdicts(task) if "results" in task else ():
            console.print(escape(line))


def markdown(report: Row) -> str:
    """The same as a page of Markdown."""
    tools = ", ".join(f"{name} {version}" for name, version in report["tools"].items())
    columns = _columns(report)
    lines = [
        "# Quantizing compared",
        "",
        f"Made by `tools/bench_quantize.py`, whose help says how: {tools}; target",
        f"{report['target']}; at most {report['calibration_samples']} calibration samples, the",
        "same for all. Score: of the quantized model, in ONNX Runtime with its optimizations off;",
        "change: against the float model, in points; SQNR: of the outputs against the float",
        "model's; agrees: how often both say the same. CPU seconds and peak memory are of the",
        "process that quantizes, its libraries included.",
        *PLACES["CPU" if columns is CPU_COLUMNS else "TensorRT"],
    ]
    for task in report["tasks"]:
        lines += ["", f"## {_title(task)}", ""]
        if "results" not in task:
            continue
        lines += [_line(columns), _line(["---"] * len(columns))]
        lines += [_line(cells(name, row, task, columns)) for name, row in task["results"].items()]
        lines += ["", *(f"- {line}" for line in verdicts(task))]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
