"""What `graphopt build` and `graphopt check` show on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.emit.tensorrt.check import FAILED, PASSED, CheckReport
from graphopt.emit.tensorrt.findings import Finding
from graphopt.emit.tensorrt.kernel_table import KernelTensor
from graphopt.emit.tensorrt.report import EngineReport
from graphopt.emit.tensorrt.unfused import Unfused
from graphopt.report.console import report_console, report_table

MAX_ALIKE = 4  # findings that differ in the node alone; --json has all of them
_COLORS = {PASSED: "green", FAILED: "red"}


def print_engine(report: EngineReport) -> None:
    """What the engine is made of, and what it should not be made of."""
    console = report_console()
    console.print(
        f"wrote {escape(str(report.path))}: {report.engine_bytes:,} bytes for "
        f"{escape(report.target)}, built by {escape(report.builder)} in "
        f"{report.build_seconds:.1f} s"
    )
    for name, shapes in report.profile.items():
        least, best, most = ("x".join(map(str, shape)) for shape in shapes)
        free = "" if least == most else f" to {most}, best at {best}"
        console.print(f"input {escape(name)}: {least}{free}")
    for text in report.misread:
        console.print(f"[yellow]warning[/]: {escape(text)}", soft_wrap=True)
    if report.kernels is None:
        console.print(f"[yellow]no kernel table:[/] {escape(report.kernel_table_note or '')}")
        return
    console.print(_precision_table(report))
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kernels_by_kind.items())
    console.print(f"kernels: {kinds or 'none'}")
    stored = ", ".join(f"{n:,} {kind}" for kind, n in report.weight_bytes_by_type.items())
    total = "unknown" if report.weight_bytes is None else f"{report.weight_bytes:,}"
    console.print(f"weights in the engine: {total} bytes" + (f" ({stored})" if stored else ""))
    if report.padding_bytes:
        console.print(
            f"zeros in the engine: {report.padding_bytes:,} bytes, with which int8 depthwise Convs "
            "are padded; with a free batch size there are none"
        )
    if report.activation_bytes is not None:
        console.print(f"written by kernels, for one sample: {report.activation_bytes:,} bytes")
    _print_unfused(console, report.unfused)
    if report.fp32_rest:
        names = ", ".join(f"'{name}'" for name in report.fp32_rest[:MAX_ALIKE])
        more = len(report.fp32_rest) - MAX_ALIKE
        console.print(
            f"hint: {escape(names)}{f' and {more} more' if more > 0 else ''}: fp32, as what is not "
            "quantized is; cast it to fp16 with the pass cast-precision",
            soft_wrap=True,
        )


def print_kernels(report: EngineReport) -> None:
    """Every kernel on the GPU in the order they run, with the ONNX nodes that it came from."""
    table = report_table("kind", "computed in", "reads", "weights", "writes", "ONNX nodes")
    for kernel in report.kernels or ():
        if kernel.kind == "control":
            continue
        names = [escape(name) for name in kernel.onnx_nodes[:MAX_ALIKE]]
        if len(kernel.onnx_nodes) > MAX_ALIKE:
            names.append(f"and {len(kernel.onnx_nodes) - MAX_ALIKE} more")
        table.add_row(
            kernel.kind,
            kernel.precision or "",
            _types(kernel.inputs),
            "" if kernel.weights is None else kernel.weights.dtype,
            _types(kernel.outputs),
            ", ".join(names),
        )
    report_console().print(table)


def _types(tensors: Sequence[KernelTensor]) -> str:
    return ", ".join(dict.fromkeys(tensor.dtype for tensor in tensors))


def _precision_table(report: EngineReport) -> Table:
    numbers = ("Conv, Gemm, MatMul nodes", "share of MACs", "their kernels", "all kernels")
    table = report_table("computed in", numbers=numbers)
    nodes, kernels = report.compute_nodes_by_precision, report.kernels_by_precision
    macs = report.macs_by_precision
    total = sum(macs.values())
    for precision in sorted({*nodes, *kernels}):
        table.add_row(
            precision,
            str(nodes.get(precision, 0)),
            f"{macs.get(precision, 0) / total:.1%}" if total else "",
            str(report.compute_kernels_by_precision.get(precision, 0)),
            str(kernels.get(precision, 0)),
        )
    return table


def _print_unfused(console: Console, unfused: Sequence[Unfused]) -> None:
    """A line for each reason, with the nodes that it holds for."""
    by_reason: dict[tuple[str, str], list[Unfused]] = {}
    for node in unfused:
        by_reason.setdefault((node.precision, node.reason), []).append(node)
    for (precision, reason), nodes in by_reason.items():
        names = ", ".join(f"'{node.node}' [{node.operator}]" for node in nodes[:MAX_ALIKE])
        more = f" and {len(nodes) - MAX_ALIKE} more" if len(nodes) > MAX_ALIKE else ""
        console.print(
            f"[yellow]warning[/]: {escape(names)}{more}: {precision} in spite of "
            f"Q/DQ: {escape(reason)}",
            soft_wrap=True,
        )


def print_check(report: CheckReport) -> None:
    """The parts of the check, each finding in a line, and the verdict."""
    console = report_console()
    console.print(f"[bold]{escape(report.path)}[/] for {escape(report.target)}")
    for stage in report.stages:
        color = _COLORS.get(stage.outcome, "yellow")
        console.print(f"  {stage.name:<6} [{color}]{stage.outcome}[/]: {escape(stage.note)}")
    for line in _lines(report.findings):
        console.print(line, soft_wrap=True)
    errors = sum(finding.is_error for finding in report.findings)
    if errors:
        console.print(f"no engine: {errors} {'error' if errors == 1 else 'errors'}")
    elif report.engine is not None:
        console.print(f"it builds: {report.engine.engine_bytes:,} bytes")
    else:
        console.print("nothing found, but it was not built")


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding; those that many nodes share are one line."""
    alike: dict[Finding, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(replace(finding, node=""), []).append(finding)
    for same in alike.values():
        kind = "[red]error[/]" if same[0].is_error else "[yellow]warning[/]"
        if len(same) <= MAX_ALIKE:
            yield from (f"{kind}: {escape(finding.text)}" for finding in same)
            continue
        names = ", ".join(f"'{finding.node}'" for finding in same[:MAX_ALIKE])
        rest = f"{names} and {len(same) - MAX_ALIKE} more nodes [{same[0].operator}]"
        fix = f"; {same[0].fix}" if same[0].fix else ""
        yield f"{kind}: {escape(rest)}: {escape(same[0].reason + fix)}"
