"""How much of the MACs that a pipeline saves is saved in time: the table of docs/pruning.md.

    python tools/bench_latency.py MODEL PIPELINE... --calib FILE [--eval FILE] --json runs.json
    python tools/bench_latency.py MODEL 'prune-channels{macs=0.47}' --batch 1 8 64 --json runs.json
    python tools/bench_latency.py --json runs.json --write docs/pruning.md

Each pipeline gets the model behind `lossless`, for the target onnxruntime-cpu, and is compared with
`lossless` alone, in ONNX Runtime on one thread, on its calibration samples. All take turns
of several runs, so that what else the machine does meets all alike; the least time of each counts.

The JSON file keeps the last run of each model and pipeline; --write makes the page of all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from bench_compensation import fill

import graphopt
from graphopt.cli.progress import Bars
from graphopt.data.evaluation import open_evaluation
from graphopt.data.feeds import batches, input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.ir import measure
from graphopt.progress import Quiet
from graphopt.runtime.latency import run_times
from graphopt.runtime.session import Session

BEGIN, END = "<!-- bench_latency: begin -->", "<!-- bench_latency: end -->"
LOSSLESS = "lossless"
TARGET = "onnxruntime-cpu"
Row = dict[str, Any]


def optimized(given: argparse.Namespace, passes: str) -> ir.Model:
    """The model behind `passes`."""
    return graphopt.optimize(
        given.model,
        passes,
        calibration=given.calib,
        evaluation=given.eval,
        target=TARGET,
        verify="off",
        progress=Bars(),
    ).model


def timed(models: Sequence[ir.Model], given: argparse.Namespace) -> dict[str, list[float]]:
    """For each batch the least milliseconds of a run of each model."""
    specs = input_specs(models[0])
    samples = open_samples(given.calib, specs)
    rows = {}
    for batch in given.batch:
        feed, size = next(batches(samples, specs, batch))
        taken = run_times(models, feed, seconds=given.seconds, threads=1)
        rows[str(size)] = [float(np.min(row)) for row in taken]
    return rows


def measured(given: argparse.Namespace) -> dict[str, Row]:
    """A row for each pipeline, by the name of the model and the pipeline."""
    models = [optimized(given, LOSSLESS)]
    models += [optimized(given, f"{LOSSLESS},{pipeline}") for pipeline in given.pipelines]
    macs = [measure(model).macs for model in models]
    scores: list[float | None] = [None] * len(models)
    if given.eval is not None:
        evaluation = open_evaluation(given.eval, input_specs(models[0]))
        scores = [evaluation.score(Session(m, optimize=True).run, Quiet()) for m in models]
    taken = timed(models, given)
    return {
        f"{given.model.stem} {pipeline}": {
            "model": given.model.stem,
            "pipeline": pipeline,
            "macs": [macs[0], macs[number]],
            "score": [scores[0], scores[number]],
            "times": {batch: [row[0], row[number]] for batch, row in taken.items()},
        }
        for number, pipeline in enumerate(given.pipelines, 1)
    }


def share_saved(pair: Sequence[float]) -> float:
    """By which share the second is less than the first."""
    return 1 - pair[1] / pair[0]


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown: behind the time that is saved, what it is of the MACs that are."""
    sizes = sorted({size for row in rows for size in row["times"]}, key=int)
    titles = [f"time at batch {size}" for size in sizes]
    lines = ["| net | pipeline | MACs | " + " | ".join([*titles, "score"]) + " |"]
    lines.append("|" + " --- |" * (len(sizes) + 4))
    for row in rows:
        macs = share_saved(row["macs"])
        cells = [row["model"], f"`{row['pipeline']}`", f"{-macs:+.0%}"]
        for size in sizes:
            pair = row["times"].get(size)
            time = share_saved(pair) if pair else 0.0
            cells.append(f"{-time:+.0%} ({time / macs:.2f})" if pair and macs else "")
        before, after = row["score"]
        cells.append("" if after is None else f"{before:.2f}, {after - before:+.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("pipelines", nargs="*", help="each is one argument")
    parser.add_argument("--calib", metavar="FILE", help="samples, as graphopt takes them")
    parser.add_argument("--eval", metavar="FILE", help="the same, with labels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=10, help="for each batch")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="all runs")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page with a marked block")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    runs: dict[str, Row] = json.loads(given.json.read_text()) if given.json.exists() else {}
    if given.model is not None:
        try:
            runs |= measured(given)
        except GraphoptError as error:
            print(f"bench_latency: {error}", file=sys.stderr)
            return 2
        given.json.write_text(json.dumps(runs, indent=1) + "\n")
    text = table(list(runs.values()))
    print(text)
    if given.write is not None:
        page = given.write.read_text()
        given.write.write_text(fill(page, text, BEGIN, END))
    return 0


if __name__ == "__main__":
    sys.exit(main())
