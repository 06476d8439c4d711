"""Compare graphopt's quantizing with its peers: accuracy, fidelity, time, and what TensorRT says.

    python tools/bench_quantize.py DATA                              # every task, every tool
    python tools/bench_quantize.py DATA --tasks resnet,vit --tools graphopt,ort-minmax --json B.json
    python tools/bench_quantize.py DATA --python modelopt=/path/bin/python --json peers.json
    python tools/bench_quantize.py DATA --tools graphopt --beside peers.json --write table.md
    python tools/bench_quantize.py DATA --pipeline equalized=lossless,equalize,quantize

DATA is a folder for what the tasks make and take; each missing source is named with what to
install. Peers: ONNX Runtime's quantize_static, NVIDIA ModelOpt, NNCF, each in any environment
(`--python`). All get the same calibration samples. graphopt gets the raw export; a peer gets it
simplified and fused by graphopt, and with `--raw` as it is. Below opset 13 it is lifted to 17.

Each run is a fresh process on one thread with limits of time and memory. Scores are taken in ONNX
Runtime with its optimizations off; SQNR is that of the first output against the float model's, over
all samples. With `--target onnxruntime-cpu` no engine is built: instead the score with the
optimizations on, and the latency relative to the float model's, are measured.

The exit code is 1 if graphopt failed on a task.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from processes import NotRunningError, ask, run_child
from quantize_child import SETTINGS
from quantize_report import markdown, print_tables
from quantize_tasks import LABELS, METRICS, TASKS, MissingError, Task, agreement

import graphopt
from graphopt.cli.progress import Bars
from graphopt.emit.tensorrt import batch_shapes, parse_shapes
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset
from graphopt.targets import get_target

HERE = Path(__file__).resolve().parent
CHILD, SCORE = str(HERE / "quantize_child.py"), str(HERE / "quantize_score.py")
CPU_TARGET = "onnxruntime-cpu"
PIPELINE = "quantize"
LEAST_OPSET, OPSET = 13, 17
"""What scales per channel need, and what an older model is lifted to for the peers."""
TOOLS = tuple(
    name if not settings else f"{name}-{setting}"
    for name, settings in SETTINGS.items()
    for setting in settings or ("",)
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """A tool with its setting, shown as `name`."""

    name: str
    tool: str
    setting: str = ""
    pipeline: str = ""
    raw: bool = False


@dataclass(frozen=True)
class Settings:
    """What is the same for every task."""

    entrants: list[Entrant]
    pythons: dict[str, str]
    target: str = "sm86"
    samples: int = 256
    limit: int | None = None
    limit_s: float = 600.0
    memory_gib: float = 8.0
    build: bool = True


@dataclass
class Arena:
    """A task being run: its folder for temporary files, and what the float model says."""

    task: Task
    folder: Path
    settings: Settings
    labels: np.ndarray = field(init=False)
    reference: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        with np.load(self.task.evaluation) as file:
            self.labels = file[LABELS][: self.settings.limit]
        self.simplified = self.folder / "simplified.onnx"
        opset = default_opset(graphopt.load(self.task.model))
        lift = f",set-opset{{version={OPSET}}}" if opset < LEAST_OPSET else ""
        fused = graphopt.optimize(self.task.model, "lossless" + lift, verify="off").model
        graphopt.save(fused, self.simplified)
        self.reference, _ = self._outputs(self.task.model)

    def float_score(self) -> float:
        return METRICS[self.task.metric](self.reference, self.labels)

    def run(self, entrant: Entrant) -> Row:
        """Quantizes, scores and builds; a row of the table."""
        out, result = self.folder / f"{entrant.name}.onnx", self.folder / "result.json"
        result.unlink(missing_ok=True)
        request = {
            "tool": entrant.tool,
            "setting": entrant.setting,
            "pipeline": entrant.pipeline,
            "target": self.settings.target,
            "model": str(self.task.model if entrant.raw else self.simplified),
            "calibration": str(self.task.calibration),
            "samples": self.settings.samples,
            "memory_gib": self.settings.memory_gib,
            "out": str(out),
            "result": str(result),
        }
        python = self.settings.pythons[entrant.tool]
        command = [python, CHILD, json.dumps(request)]
        failure = run_child(command, self.settings.limit_s)
        if failure is not None:
            return {"failure": failure}
        row: Row = {**json.loads(result.read_text()), "bytes": out.stat().st_size}
        row |= self._score(out)
        if self.settings.build and self.settings.target != CPU_TARGET:
            row["engine"] = build(out, self.task, self.settings.target)
        return row

    def _score(self, model: Path) -> Row:
        metric = METRICS[self.task.metric]
        found, row = self._outputs(model)
        if found is None:
            return row
        row["score"] = metric(found, self.labels)
        row["sqnr_db"] = decibels(self.reference, found)
        row["agreement"] = agreement(self.task.metric, found, self.reference)
        optimized = self.folder / "optimized.npy"
        if optimized.exists():
            row["score_optimized"] = metric(np.load(optimized), self.labels)
            optimized.unlink()
        return row

    def _outputs(self, model: Path) -> tuple[Any, Row]:
        """The first output over the task's data, and what else was found; None if it failed."""
        outputs, result = self.folder / "outputs.npy", self.folder / "score.json"
        result.unlink(missing_ok=True)
        request = {
            "model": str(model),
            "evaluation": str(self.task.evaluation),
            "limit": self.settings.limit,
            "outputs": str(outputs),
        }
        if self.settings.target == CPU_TARGET and model != self.task.model:
            request |= {
                "original": str(self.task.model),
                "optimized": str(self.folder / "optimized.npy"),
                "result": str(result),
            }
        command = [sys.executable, SCORE, json.dumps(request)]
        failure = run_child(command, self.settings.limit_s)
        if failure is not None:
            return None, {"score_failure": failure}
        return np.load(outputs), json.loads(result.read_text()) if result.exists() else {}


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    """The signal-to-noise ratio of `other` against `signal`, over all elements."""
    noise = float(((signal.astype(np.float64) - other) ** 2).sum())
    power = float((signal.astype(np.float64) ** 2).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(power / noise))


def build(model: Path, task: Task, target: str) -> Row:
    """What TensorRT-RTX makes of `model`: the nodes by the precision of their kernels."""
    try:
        shapes = parse_shapes(task.shapes) if task.shapes else batch_shapes(graphopt.load(model))
        report = graphopt.build_engine(
            model, model.with_suffix(".engine"), target=get_target(target), shapes=shapes
        )
    except GraphoptError as error:
        return {"failure": " ".join(str(error).split())}
    return {
        "nodes": report.compute_nodes_by_precision,
        "weight_bytes": report.weight_bytes,
        "seconds": report.build_seconds,
    }


def bench(name: str, data: Path, settings: Settings) -> Row:
    """Every entrant on one task."""
    try:
        task = TASKS[name](data)
    except MissingError as error:
        return {"task": name, "missing": str(error)}
    with tempfile.TemporaryDirectory() as scratch:
        arena = Arena(task, Path(scratch), settings)
        return {
            "task": name,
            "metric": task.metric,
            "samples": len(arena.labels),
            "score": arena.float_score(),
            "bytes": task.model.stat().st_size,
            "results": {entrant.name: arena.run(entrant) for entrant in settings.entrants},
        }


def beside(report: Row, earlier: Row) -> None:
    """Puts rows of an earlier run of the same tasks into `report`, where it has none itself."""
    before = {task["task"]: task for task in earlier["tasks"] if "results" in task}
    for task in report["tasks"]:
        old = before.get(task["task"])
        if old is not None and "results" in task and old["samples"] == task["samples"]:
            task["results"] = {**old["results"], **task["results"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a folder for the tasks' data")
    parser.add_argument("--tasks", default=",".join(TASKS), help="default: %(default)s")
    parser.add_argument("--tools", default=",".join(TOOLS), help="default: %(default)s")
    parser.add_argument("--pipeline", action="append", default=[], metavar="NAME=TEXT")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH")
    parser.add_argument("--raw", action="store_true", help="peers also get the raw export")
    parser.add_argument("--target", default="sm86", help="default: %(default)s")
    parser.add_argument("--no-build", action="store_true", help="build no engines")
    parser.add_argument("--samples", type=int, default=256, metavar="N", help="to calibrate on")
    parser.add_argument("--evaluate", type=int, metavar="N", help="of the labelled samples")
    parser.add_argument("--limit", type=float, default=600.0, metavar="SECONDS", help="for a child")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB", help="for a child")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--beside", type=Path, metavar="FILE", help="rows of an earlier --json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page of Markdown")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> Settings:
    entrants = []
    for name in filter(None, arguments.tools.split(",")):
        if name not in TOOLS:
            sys.exit(f"unknown tool: {name}; known: {', '.join(TOOLS)}")
        tool, _, setting = name.partition("-")
        if tool == "graphopt":
            entrants.append(Entrant(name, tool, pipeline=PIPELINE, raw=True))
            continue
        entrants.append(Entrant(name, tool, setting))
        if arguments.raw:
            entrants.append(Entrant(f"{name} (raw)", tool, setting, raw=True))
    for name, text in _pairs(arguments.pipeline, "--pipeline"):
        entrants.append(Entrant(f"graphopt {name}", "graphopt", pipeline=text, raw=True))
    pythons = dict.fromkeys(SETTINGS, sys.executable)
    pythons |= dict(_pairs(arguments.python, "--python"))
    return Settings(
        entrants,
        pythons,
        arguments.target,
        arguments.samples,
        arguments.evaluate,
        arguments.limit,
        arguments.memory,
        not arguments.no_build,
    )


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for key, separator, value in pairs:
        if not (key and separator and value):
            sys.exit(f"{option} {key}{separator}{value}: NAME=VALUE expected")
    return [(key, value) for key, _, value in pairs]


def find_versions(settings: Settings) -> dict[str, str]:
    """The version of each tool that is installed; says which are not."""
    found = {}
    for entrant in {entrant.tool: entrant for entrant in settings.entrants}.values():
        request = {"tool": entrant.tool, "setting": entrant.setting}
        python = settings.pythons[entrant.tool]
        try:
            found[entrant.tool] = ask([python, CHILD, json.dumps(request)])
        except NotRunningError as error:
            print(f"left out: {entrant.tool}: {error} (see --python)", file=sys.stderr)
    return found


def main() -> int:
    arguments = _arguments()
    settings = _settings(arguments)
    names = [name for name in arguments.tasks.split(",") if name]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        sys.exit(f"unknown task: {', '.join(unknown)}; known: {', '.join(TASKS)}")
    versions = find_versions(settings)
    settings = replace(settings, entrants=[e for e in settings.entrants if e.tool in versions])
    earlier = json.loads(arguments.beside.read_text()) if arguments.beside else None
    arguments.data.mkdir(parents=True, exist_ok=True)
    report: Row = {
        "tools": (earlier or {}).get("tools", {}) | versions,
        "target": settings.target,
        "calibration_samples": settings.samples,
        "tasks": [],
    }
    for name in Bars().track(names, "tasks", total=len(names)):
        report["tasks"].append(bench(name, arguments.data, settings))
        if earlier is not None:
            beside(report, earlier)
        if arguments.json is not None:  # after each task: a long run that is stopped leaves it
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print_tables(report)
    if arguments.write is not None:
        arguments.write.write_text(markdown(report))
    own = [
        row for t in report["tasks"] for n, row in t.get("results", {}).items() if "graphopt" in n
    ]
    return int(any("failure" in row or "score_failure" in row for row in own))


if __name__ == "__main__":
    sys.exit(main())
