"""Reports for people, on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.report.console import report_console, report_table
from graphopt.report.model import (
    Comparison,
    Inspection,
    ModelFigures,
    Port,
    Report,
    Score,
    Sensitivity,
    Verification,
)
from graphopt.report.rewrites import PassSummary, near_misses, summarize
from graphopt.runtime.difference import Difference

TOP_NODES = 10
MAX_NOTES = 12
MAX_NAMES = 3
BAR = 20


def print_report(report: Report, *, explain: bool = False) -> None:
    """What each pass did, the before/after table, and how far the outputs moved.

    Args:
        explain: whether to say of each near miss why it was not rewritten.
    """
    console = report_console()
    _print_passes(console, summarize(report.steps), explain=explain)
    console.print(_figures_table(report))
    _print_verification(console, report.verification)
    if report.evaluation is not None:
        _print_score(console, report.evaluation)
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if report.output is not None:
        console.print(f"wrote {escape(report.output)}")
    elif report.evaluation is not None and not report.evaluation.met:
        console.print("[red]no model was written[/]: the score fell by more than --max-drop")
    for unmet in report.unmet:
        console.print(f"[red]not reached[/] by {escape(unmet)}")


def _print_passes(console: Console, passes: Sequence[PassSummary], *, explain: bool) -> None:
    for row in passes:
        if not row.rewrites and not row.notes and not (explain and row.declined):
            continue
        did = ", ".join(f"{count} x {name}" for name, count in sorted(row.rewrites.items()))
        change = f", nodes {-row.nodes_removed:+}" if row.nodes_removed else ""
        console.print(
            f"[bold]{escape(row.step)}[/] ({row.seconds:.2f} s{change}): "
            f"{escape(did) or 'nothing to do'}"
        )
        for note in row.notes[:MAX_NOTES]:
            console.print(f"  - {escape(note)}")
        if len(row.notes) > MAX_NOTES:
            console.print(f"  - and {len(row.notes) - MAX_NOTES} more notes (see --json)")
        if explain:
            _print_near_misses(console, row)
    missed = sum(len(row.declined) for row in passes)
    if missed and not explain:
        kept = "near miss was left as it is" if missed == 1 else "near misses were left as they are"
        console.print(f"{missed} {kept} (--explain says why)")


def _print_near_misses(console: Console, row: PassSummary) -> None:
    for (rewrite, op_type, reason), nodes in near_misses(row.declined).items():
        shown = ", ".join(f"'{name}'" for name in nodes[:MAX_NAMES])
        more = f" and {len(nodes) - MAX_NAMES} more" if len(nodes) > MAX_NAMES else ""
        console.print(
            f"  - {escape(rewrite)}: {op_type} {escape(shown)}{more} kept: {escape(reason)}"
        )


def _figures_table(report: Report) -> Table:
    table = report_table("", numbers=("before", "after", "after / before"))
    for name, before, after in _figure_rows(report):
        ratio = f"{after / before:.3f}" if before and after is not None else ""
        table.add_row(name, _number(before), _number(after), ratio)
    if report.evaluation is not None:
        score = report.evaluation
        change = f"{score.after - score.before:+.2f}"
        table.add_row(score.metric, f"{score.before:.2f}", f"{score.after:.2f}", change)
    return table


def _figure_rows(report: Report) -> list[tuple[str, float | None, float | None]]:
    def row(name: str, field: str) -> tuple[str, float | None, float | None]:
        return name, getattr(report.before, field), getattr(report.after, field)

    rows = [
        row("nodes", "nodes"),
        row("parameters", "parameters"),
        _macs_row(report.before, report.after),
        row("weight bytes", "weight_bytes"),
        row("file bytes", "file_bytes"),
    ]
    if report.latency_batch is not None:
        rows.append(
            row(
                f"latency ms (ONNX Runtime on this CPU, batch {report.latency_batch})", "latency_ms"
            )
        )
    return rows


def _macs_row(before: ModelFigures, after: ModelFigures) -> tuple[str, int | None, int | None]:
    unknown = max(len(before.macs_unknown), len(after.macs_unknown))
    if unknown:
        return f"MACs (unknown: {unknown} nodes have no known shape)", None, None
    return "MACs", before.macs, after.macs


def _print_verification(console: Console, verification: Verification) -> None:
    if verification.skipped is not None:
        if verification.mode == "off":  # otherwise it is a warning, further down
            console.print(f"not verified: {escape(verification.skipped)}")
        return
    console.print(f"verified on {escape(verification.inputs)}")
    for check in verification.checks:
        worst = max(check.differences, key=lambda d: d.max_rel, default=None)
        if worst is not None:
            names = ", ".join(dict.fromkeys(check.passes))
            console.print(f"  {check.effect} {escape(names)}: {_difference_line(worst)}")
    if verification.total:
        console.print("the result against the original:")
        console.print(_difference_table(verification.total))


def _print_score(console: Console, score: Score) -> None:
    limit = "" if score.max_drop is None else f", at most {score.max_drop:g} allowed"
    verdict = (
        "" if score.max_drop is None else (" [green]ok[/]" if score.met else " [red]MISSED[/]")
    )
    console.print(
        f"{escape(score.metric)} on {escape(score.source)}: {score.before:.2f} -> "
        f"{score.after:.2f} (drop {score.drop:.2f}{limit}){verdict}"
    )


def print_comparison(comparison: Comparison) -> None:
    """How far the outputs of two models are apart."""
    console = report_console()
    console.print(
        f"{escape(comparison.second)} against {escape(comparison.first)} on "
        f"{comparison.samples} samples of {escape(comparison.data)}"
    )
    console.print(_difference_table(comparison.differences))
    if comparison.tolerance is not None:
        verdict = "[green]within[/]" if comparison.met else "[red]NOT within[/]"
        console.print(f"{verdict} {comparison.tolerance:g} of each output's peak")


def print_sensitivity(sensitivity: Sensitivity) -> None:
    """What each layer alone costs, the worst first; a short bar is a sensitive layer."""
    console = report_console()
    console.print(
        f"[bold]{escape(sensitivity.source)}[/]: {escape(sensitivity.pipeline)}, "
        f"measured on {sensitivity.samples} samples of {escape(sensitivity.data)}"
    )
    total = sum(layer.macs or 0 for layer in sensitivity.layers)
    finite = [layer.sqnr_db for layer in sensitivity.layers if math.isfinite(layer.sqnr_db)]
    longest = max(finite, default=1.0)
    table = report_table("layer", "operator", numbers=("MACs", "SQNR dB"))
    table.add_column("", min_width=BAR, no_wrap=True)
    table.add_column("stays")
    for layer in sensitivity.by_sensitivity:
        share = "?" if layer.macs is None or not total else f"{layer.macs / total:.1%}"
        filled = round(BAR * min(max(layer.sqnr_db / longest, 0.0), 1.0)) if longest > 0 else 0
        table.add_row(
            escape(layer.node),
            escape(layer.op_type),
            share,
            f"{layer.sqnr_db:.1f}",
            ("#" if console.options.ascii_only else "█") * filled,
            "float" if layer.precision == "float" else "",
        )
    console.print(table)
    console.print(f"all layers quantized: {sensitivity.everywhere_db:.1f} dB")
    for note in sensitivity.notes:
        console.print(f"  - {escape(note)}")
    if sensitivity.unmet is not None:
        console.print(f"[red]not reached[/]: {escape(sensitivity.unmet)}")


def print_inspection(inspection: Inspection) -> None:
    """What a model is made of."""
    console = report_console()
    cost = inspection.cost
    opsets = ", ".join(f"{domain} {version}" for domain, version in inspection.opsets.items())
    console.print(
        f"[bold]{escape(inspection.path)}[/]: {inspection.file_bytes:,} bytes, IR "
        f"{inspection.ir_version}, {escape(opsets)}, by {escape(inspection.producer)}"
    )
    for kind, ports in (("input", inspection.inputs), ("output", inspection.outputs)):
        for port in ports:
            console.print(f"{kind:>6} {escape(_port(port))}")
    unknown = f" (without {len(cost.unknown)} nodes of unknown shape)" if cost.unknown else ""
    console.print(
        f"{cost.nodes:,} nodes, {cost.parameters:,} parameters in {cost.weight_bytes:,} bytes, "
        f"{cost.macs:,} MACs{unknown}"
    )
    console.print(escape(", ".join(f"{n} {op}" for op, n in inspection.operators.items())))
    console.print("the costliest nodes:")
    console.print(_cost_table(inspection))
    for key, value in inspection.record.items():
        console.print(f"made by graphopt, {escape(key)}: {escape(value)}")


def _cost_table(inspection: Inspection) -> Table:
    heaviest = sorted(
        inspection.cost.per_node, key=lambda node: (-(node.macs or 0), -node.parameters)
    )
    table = report_table("node", "operator", numbers=("MACs", "parameters"))
    for node in heaviest[:TOP_NODES]:
        macs = "unknown" if node.macs is None else f"{node.macs:,}"
        table.add_row(escape(node.name), escape(node.op_type), macs, f"{node.parameters:,}")
    return table


def _difference_table(differences: Sequence[Difference]) -> Table:
    table = report_table("output", numbers=("max abs", "max rel", "cosine", "SQNR dB"))
    for d in differences:
        table.add_row(
            escape(d.output), f"{d.max_abs:.3g}", f"{d.max_rel:.3g}", f"{d.cosine:.6f}", _db(d)
        )
    return table


def _difference_line(difference: Difference) -> str:
    if difference.exact:
        return "identical outputs"
    return (
        f"at most {difference.max_rel:.2g} of the peak of '{escape(difference.output)}', "
        f"SQNR {_db(difference)} dB"
    )


def _db(difference: Difference) -> str:
    return "inf" if math.isinf(difference.sqnr_db) else f"{difference.sqnr_db:.1f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _port(port: Port) -> str:
    dims = (
        "unknown shape" if port.shape is None else ", ".join(str(dim or "?") for dim in port.shape)
    )
    return f"{port.name}: {port.type} [{dims}]"
