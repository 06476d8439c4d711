"""Measures what graphopt does to the fixtures and writes the table into fixtures/README.md.

    python tools/measure_fixtures.py            # print
    python tools/measure_fixtures.py --write    # and put it between the markers of the README

Scores are top-1 in per cent over fixtures/eval.npz, in ONNX Runtime with its own optimizations off;
calibration is fixtures/calib.npz. No training anywhere.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import graphopt
from graphopt.emit.tensorrt import batch_shapes
from graphopt.ir import nodes_of
from graphopt.jobs.comparison import compare_models
from graphopt.report.model import Report
from graphopt.targets import get_target

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODELS = ("resnet", "mobilenet", "vit")
CALIBRATION, EVALUATION = str(FIXTURES / "calib.npz"), str(FIXTURES / "eval.npz")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
TARGET = "sm86"


def optimized(name: str, passes: str, folder: Path) -> tuple[Report, Path]:
    """Runs `passes` over a fixture; the report and where the result was saved."""
    result = graphopt.optimize(
        FIXTURES / f"{name}.onnx",
        passes,
        calibration=CALIBRATION,
        evaluation=EVALUATION,
        target=TARGET,
    )
    path = folder / f"{name}.onnx"
    graphopt.save(result.model, path)
    return result.report, path


def lossless_row(name: str, folder: Path) -> str:
    report, path = optimized(name, "lossless", folder)
    difference = compare_models(FIXTURES / f"{name}.onnx", path, CALIBRATION).differences[0]
    left = sum(node.op_type == "BatchNormalization" for node in nodes_of(graphopt.load(path)))
    return (
        f"| {name} | {report.before.nodes} -> {report.after.nodes} | {left} | "
        f"{difference.max_rel:.1e} | {top1(report)} |"
    )


def pruned_row(name: str, folder: Path) -> str:
    report, _ = optimized(name, "lossless,prune-channels{ratio=0.3,align=1}", folder)
    return (
        f"| {name} | {cut(report, 'parameters')} | {cut(report, 'macs')} | {top1(report)} | "
        f"{seconds(report, 'prune-channels'):.1f} |"
    )


def quantized_row(name: str, passes: str, folder: Path) -> str:
    report, path = optimized(name, passes, folder)
    engine = graphopt.build_engine(
        path,
        folder / f"{name}.engine",
        target=get_target(TARGET),
        shapes=batch_shapes(graphopt.load(path)),
    )
    compute = engine.compute_nodes_by_precision
    before, after = report.before.file_bytes, path.stat().st_size
    return (
        f"| {name} | {before:,} -> {after:,} | {report.verification.total[0].sqnr_db:.1f} | "
        f"{top1(report)} | {compute.get('int8', 0)} of {sum(compute.values())} | "
        f"{engine.weight_bytes:,} |"
    )


def top1(report: Report) -> str:
    score = report.evaluation
    return f"{score.before:.2f} -> {score.after:.2f} ({score.after - score.before:+.2f})"


def cut(report: Report, field: str) -> str:
    before, after = getattr(report.before, field), getattr(report.after, field)
    return f"{before:,} -> {after:,} ({after / before - 1:+.0%})"


def seconds(report: Report, name: str) -> float:
    return sum(row.seconds for row in report.steps if row.step.startswith(name))


def table() -> str:
    int8, both = "lossless,quantize", "lossless,prune-channels{ratio=0.3},quantize"
    quantized = [
        "| net | file bytes | SQNR dB | top-1 | nodes in int8 | weight bytes |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = [
            "Made by `tools/measure_fixtures.py --write`.",
            "",
            "`simplify,fuse` (difference: largest, relative to the output's peak, over calib.npz)",
            "",
            "| net | nodes | BatchNormalization left | difference | top-1 |",
            "|---|---|---|---|---|",
            *(lossless_row(name, folder) for name in MODELS),
            "",
            "`simplify,fuse,prune-channels{ratio=0.3,align=1}`: least-squares compensation,",
            "no training",
            "",
            "| net | parameters | MACs | top-1 | seconds |",
            "|---|---|---|---|---|",
            *(pruned_row(name, folder) for name in MODELS),
            "",
            f"`simplify,fuse,quantize`, built for {TARGET} (the Conv, Gemm and MatMul nodes whose",
            "kernel is int8, and the bytes of the weights in the engine)",
            "",
            *quantized,
            *(quantized_row(name, int8, folder) for name in MODELS),
            "",
            f"`simplify,fuse,prune-channels{{ratio=0.3}},quantize`, built for {TARGET}: the",
            "channels are rounded to that target's multiple, 8, so that fewer than 30% are cut",
            "",
            *quantized,
            *(quantized_row(name, both, folder) for name in MODELS),
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write into fixtures/README.md")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.write:
        readme = FIXTURES / "README.md"
        head, rest = readme.read_text().split(BEGIN)
        tail = rest.partition(END)[2]
        readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


if __name__ == "__main__":
    main()
