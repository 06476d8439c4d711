"""Does TensorRT-RTX compute in integers what `quantize` said that it would?

    python tools/check_kernels.py MODELS                    # a folder, or ONNX files
    python tools/check_kernels.py MODELS --target sm89 --json kernels.json --markdown kernels.md

Each model is quantized on random samples for the target, and built. Every Conv, Gemm and MatMul
that the pass lists as quantized must have no float kernel; each one that has is listed, with its
precision. The exit code is 1 if any is, or if a model cannot be quantized or built.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from processes import run_child

import graphopt
from graphopt.cli.progress import Bars
from graphopt.data.arrays import ArraySamples
from graphopt.data.feeds import Feed, InputSpec, input_specs
from graphopt.errors import GraphoptError
from graphopt.targets import get_target

SAMPLES = 4
IMAGE, SEQUENCE = 320, 64
"""The free sizes of an input with four axes, and of others."""
TEXT_LINE = (48, 192)
"""Those of nets that read one line of text, by name."""
FLOAT = ("fp32", "fp16", "bf16")
Row = dict[str, Any]


def sample_shape(spec: InputSpec, name: str) -> tuple[int, ...]:
    """One sample: free dimensions get sizes that nets of its kind are made for."""
    free = (IMAGE, IMAGE) if len(spec.shape) == 4 else (SEQUENCE,) * len(spec.shape)
    if name.endswith(("_cls", "_rec")):
        free = TEXT_LINE
    sizes = [1 if spec.batched and i == 0 else size for i, size in enumerate(spec.shape)]
    first = len(sizes) - len(free)
    return tuple(
        size if size is not None else free[index - first] for index, size in enumerate(sizes)
    )


def noise(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """SAMPLES samples: normal floats, integers that every table of indices has."""
    count = SAMPLES if spec.batched else 1
    stacked = (count, *shape[1:]) if spec.batched else (SAMPLES, *shape)
    if spec.dtype.kind in "iub":
        return generator.integers(0, 2, stacked).astype(spec.dtype)
    return generator.standard_normal(stacked).astype(spec.dtype)


def check(path: Path, pipeline: str, target: str, folder: Path) -> Row:
    """A row of the table."""
    row: Row = {"model": path.name}
    started = time.process_time()
    try:
        model = graphopt.load(path)
        specs = input_specs(model)
        shapes = {spec.name: sample_shape(spec, path.stem) for spec in specs}
        generator = np.random.default_rng(0)
        feed = {spec.name: noise(spec, shapes[spec.name], generator) for spec in specs}
        quantized, steps = _quantize(model, pipeline, target, feed)
        row["quantize_cpu_s"] = time.process_time() - started
        result = folder / path.name
        graphopt.save(quantized, result)
        row |= _build(result, target, shapes, steps)
    except GraphoptError as error:
        row["failure"] = " ".join(str(error).split())
    return row


def _quantize(
    model: ir.Model, pipeline: str, target: str, feed: Feed
) -> tuple[ir.Model, list[Row]]:
    """The quantized model, and what `quantize` says of each node that it quantized."""
    samples = ArraySamples("noise", feed, input_specs(model), is_random=True)
    result = graphopt.optimize(model, pipeline, calibration=samples, target=target, verify="off")
    rows = [row for step in result.report.steps for row in step.details.get("quantized", ())]
    return result.model, rows


def _build(path: Path, target: str, shapes: dict[str, tuple[int, ...]], steps: list[Row]) -> Row:
    ranges = {name: (shape, shape, shape) for name, shape in shapes.items()}
    report = graphopt.build_engine(
        path, path.with_suffix(".engine"), target=get_target(target), shapes=ranges
    )
    if report.compute_nodes is None:
        return {"failure": f"no kernel table: {report.kernel_table_note}"}
    found = {node.name: node.precision for node in report.compute_nodes}
    promised = [row["node"] for row in steps]
    return {
        "promised": len(promised),
        "nodes": report.compute_nodes_by_precision,
        "build_s": report.build_seconds,
        "float": {name: found.get(name) for name in promised if found.get(name) in FLOAT},
        "unknown": [name for name in promised if found.get(name) is None],
    }


def check_in_child(path: Path, pipeline: str, target: str, limit_s: float) -> Row:
    """`check` in a process of its own: a crash or a hang is its model's alone."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        command = [sys.executable, __file__, CHILD, str(path), pipeline, target, str(result)]
        failure = run_child(command, limit_s)
        if failure is not None:
            return {"model": path.name, "failure": failure}
        found: Row = json.loads(result.read_text())
        return found


def remarks(row: Row) -> str:
    if "failure" in row:
        return row["failure"]
    lines = [f"{name} is {precision}" for name, precision in row["float"].items()]
    if row["unknown"]:
        lines.append(f"no kernel names {', '.join(row['unknown'])}")
    return "; ".join(lines) or "ok"


def table(rows: list[Row]) -> str:
    lines = ["| model | int8 promised | nodes by kernel | build s | |", "|---|---|---|---|---|"]
    for row in rows:
        nodes = ", ".join(f"{kind} {count}" for kind, count in row.get("nodes", {}).items())
        seconds = f"{row['build_s']:.0f}" if "build_s" in row else ""
        cells = [row["model"], str(row.get("promised", "")), nodes, seconds, remarks(row)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    good = sum(remarks(row) == "ok" for row in rows)
    return "\n".join([*lines, "", f"{good} of {len(rows)} as promised."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="a folder, or ONNX files")
    parser.add_argument("--target", default="sm86", help="default: %(default)s")
    parser.add_argument("--pipeline", default="quantize", help="default: %(default)s")
    parser.add_argument("--limit", type=float, default=1800.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    paths = [
        path
        for given in arguments.models
        for path in (sorted(given.glob("*.onnx")) if given.is_dir() else [given])
    ]
    rows = []
    for path in Bars().track(paths, "models", total=len(paths)):
        rows.append(check_in_child(path, arguments.pipeline, arguments.target, arguments.limit))
        if arguments.json is not None:  # after each: a long run that is stopped leaves it
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
        if arguments.markdown is not None:
            arguments.markdown.write_text(table(rows))
    print(table(rows), end="")
    return int(any(remarks(row) != "ok" for row in rows))


CHILD = "--child"

if __name__ == "__main__":
    match sys.argv[1:]:
        case [flag, model, pipeline, target, result] if flag == CHILD:
            row = check(Path(model), pipeline, target, Path(result).parent)
            Path(result).write_text(json.dumps(row))
        case _:
            sys.exit(main())
