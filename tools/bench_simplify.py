"""Compare graphopt's lossless simplifying with its peers on a folder of ONNX models.

    python tools/bench_simplify.py MODELS                        # against every peer
    python tools/bench_simplify.py MODELS --tools graphopt,onnxslim --repeat 3 --json bench.json
    python tools/bench_simplify.py MODELS --python onnxsim=/path/to/other/bin/python

Peers: onnxslim, onnxsim and onnxscript (its optimizer), each with its default options; a peer may
live in an environment of its own (`--python`). MODELS is a folder, or ONNX files.

Each run is a fresh process on one thread, with a time limit; imports are done before the clock
starts. The tools take turns on every model, and the least CPU time of `--repeat` runs counts.
Every result is then checked in another process: onnx's checker, inputs and outputs, outputs on
random inputs against the original's, and latency in ONNX Runtime, paired with the original's.

The exit code is 1 if graphopt failed on a model, or its result is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx_files import onnx_files
from processes import NotRunningError, ask, run_child
from simplify_report import markdown, print_tables, summarize

from graphopt.cli.progress import Bars

TOOLS = ("graphopt", "onnxslim", "onnxsim", "onnxscript")
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Settings:
    """What is the same for every model."""

    pythons: dict[str, str]
    """The interpreter of each tool, in the order in which they are shown."""
    passes: str = "lossless"
    verify: bool = False
    repeat: int = 1
    limit_s: float = 300.0
    latency_s: float = 1.0


@dataclass
class Outcome:
    """A tool on a model."""

    measured: list[dict[str, Any]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    failure: str | None = None
    again: str | None = None
    """What a second run on the result changed."""
    checked: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """All of it, as it goes into the JSON file; the CPU times are the least of the runs."""
        if self.failure is not None:
            return {"failure": self.failure}
        best = min(self.measured, key=lambda run: float(run["cpu_s"]))
        peaks = [run["peak_kib"] for run in self.measured]
        added = [run["peak_kib"] - run["baseline_kib"] for run in self.measured]
        return {
            "cpu_s": best["cpu_s"],
            "simplify_cpu_s": min(float(run["simplify_cpu_s"]) for run in self.measured),
            "wall_s": min(float(run["wall_s"]) for run in self.measured),
            "peak_mib": max(peaks) / 1024,
            "added_mib": max(added) / 1024,
            "same_bytes_each_run": len(set(self.digests)) == 1,
            "second_run": self.again,
            **self.checked,
        }


def simplify(tool: str, model: Path, folder: Path, outcome: Outcome, settings: Settings) -> None:
    """One run of `tool`; the first also simplifies its own result once more."""
    first = not outcome.measured
    out, again, result = (folder / name for name in ("out.onnx", "again.onnx", "result.json"))
    for path in (out, again, result):
        path.unlink(missing_ok=True)
    request = {
        "tool": tool,
        "passes": settings.passes,
        "verify": settings.verify,
        "model": str(model),
        "out": str(out),
        "result": str(result),
        "again": str(again) if first else None,
    }
    command = [settings.pythons[tool], str(HERE / "simplify_child.py"), json.dumps(request)]
    failure = run_child(command, settings.limit_s)
    if not result.exists():
        outcome.failure = failure or "wrote nothing"
        return
    outcome.measured.append(json.loads(result.read_text()))
    outcome.digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
    if first:
        outcome.again = failure or _second_run(out, again)
        outcome.checked["bytes"] = sum(
            path.stat().st_size
            for path in folder.iterdir()
            if path not in (again, result) and not path.name.startswith("again.onnx")
        )


def _second_run(out: Path, again: Path) -> str:
    """`nothing`, `metadata` or `the graph`: what the second run changed in the first's result."""
    import onnx

    if out.read_bytes() == again.read_bytes():
        return "nothing"
    graphs = [onnx.load(path, load_external_data=False).graph for path in (out, again)]
    same = len({graph.SerializeToString(deterministic=True) for graph in graphs}) == 1
    return "metadata" if same else "the graph"


def check(model: Path, folder: Path, outcome: Outcome, settings: Settings) -> None:
    """Compares the result in `folder` with `model`."""
    result = folder / "check.json"
    result.unlink(missing_ok=True)
    script, out = HERE / "simplify_check.py", folder / "out.onnx"
    command = [sys.executable, str(script), str(model), str(out), str(result)]
    failure = run_child([*command, str(settings.latency_s)], settings.limit_s)
    if result.exists():
        outcome.checked.update(json.loads(result.read_text()))
    if failure is not None:
        outcome.checked["check_failure"] = failure


def bench(model: Path, settings: Settings) -> dict[str, Any]:
    """Every tool on one model, taking turns."""
    import onnx
    from simplify_check import count_nodes

    outcomes = {tool: Outcome() for tool in settings.pythons}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {tool: Path(scratch) / tool for tool in outcomes}
        for folder in folders.values():
            folder.mkdir()
        for turn in range(settings.repeat):
            order = list(outcomes)
            for tool in order[turn % len(order) :] + order[: turn % len(order)]:
                if outcomes[tool].failure is None:
                    simplify(tool, model, folders[tool], outcomes[tool], settings)
        for tool, outcome in outcomes.items():
            if outcome.failure is None:
                check(model, folders[tool], outcome, settings)
    return {
        "model": model.name,
        "bytes": model.stat().st_size,
        **count_nodes(onnx.load(model, load_external_data=False)),
        "results": {tool: outcome.row() for tool, outcome in outcomes.items()},
    }


def find_versions(settings: Settings) -> dict[str, str]:
    """The version of each tool; SystemExit with one line if one is not installed."""
    found = {}
    for tool, python in settings.pythons.items():
        request = {"tool": tool, "passes": settings.passes, "verify": settings.verify}
        command = [python, str(HERE / "simplify_child.py"), json.dumps(request)]
        try:
            found[tool] = ask(command)
        except NotRunningError as error:
            sys.exit(f"{tool} does not run in {python}: {error} (see --tools and --python)")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="a folder, or ONNX files")
    parser.add_argument("--tools", default=",".join(TOOLS), help="default: %(default)s")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH")
    parser.add_argument("--passes", default="lossless", help="graphopt's pipeline")
    parser.add_argument("--verify", action="store_true", help="graphopt verifies, and is timed so")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="runs of each tool")
    parser.add_argument("--limit", type=float, default=300.0, metavar="SECONDS", help="for a child")
    parser.add_argument("--latency", type=float, default=1.0, metavar="SECONDS", help="0: none")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> Settings:
    tools = [name.strip() for name in arguments.tools.split(",")]
    unknown = [name for name in tools if name not in TOOLS]
    if unknown:
        sys.exit(f"unknown tool: {', '.join(unknown)}; known: {', '.join(TOOLS)}")
    pythons = dict.fromkeys(tools, sys.executable)
    for text in arguments.python:
        tool, separator, path = text.partition("=")
        if not separator or tool not in TOOLS:
            sys.exit(f"--python {text}: TOOL=PATH expected, with a tool of {', '.join(TOOLS)}")
        if tool in pythons:
            pythons[tool] = path
    if arguments.repeat < 1:
        sys.exit("--repeat must be at least 1")
    return Settings(
        pythons,
        arguments.passes,
        arguments.verify,
        arguments.repeat,
        arguments.limit,
        arguments.latency,
    )


def main() -> int:
    arguments = _arguments()
    settings, models = _settings(arguments), onnx_files(arguments.models)
    report: dict[str, Any] = {
        "tools": find_versions(settings),
        "passes": settings.passes,
        "verify": settings.verify,
        "repeat": settings.repeat,
        "models": [],
    }
    for model in Bars().track(models, "models", total=len(models)):
        report["models"].append(bench(model, settings))
        report["summary"] = summarize(report)
        if arguments.json is not None:  # after each model: a long run that is stopped leaves it
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(report))
    print_tables(report)
    return 0 if report["summary"]["tools"].get("graphopt", {}).get("sound", True) else 1


if __name__ == "__main__":
    sys.exit(main())
