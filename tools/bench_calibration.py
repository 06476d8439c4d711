"""What calibrating costs beside plain inference: CPU time, and memory by the number of samples.

    python tools/bench_calibration.py resnet50.onnx
    python tools/bench_calibration.py resnet50.onnx --samples 16,64,256,512 --json calibration.json

`inference` runs the model over the samples in ONNX Runtime, optimizations off, and keeps nothing.
`graphopt` is all of `quantize`, from file to file; `ort-*` all of ONNX Runtime's quantize_static
with that calibrator, over the same samples. Each run is a process of its own on one core, with
limits of time and memory; what exceeds them is told. Samples are normal noise, made as they are
read, one at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import cpu_seconds, forget_peak, memory_kib, run_child, use_one_core

MODES = ("inference", "graphopt", "ort-minmax", "ort-entropy", "ort-percentile")
Row = dict[str, Any]


def measure(request: Row) -> Row:
    """Runs one mode in this process: CPU seconds and MiB."""
    import quantize_child

    import graphopt
    from graphopt.data.feeds import Feed, input_specs
    from graphopt.data.random import RandomOptions, RandomSamples
    from graphopt.runtime.session import Session

    mode, path = request["mode"], request["model"]
    model = graphopt.load(path)
    samples = RandomSamples(RandomOptions(n=request["samples"]), input_specs(model))

    def work() -> None:
        if mode == "inference":
            session = Session(model)
            for feed in samples:
                session.run(feed)
        elif mode == "graphopt":
            options = {"calibration": samples, "target": "sm86", "verify": "off"}
            result = graphopt.optimize(path, request["pipeline"], **options)
            graphopt.save(result.model, request["out"])
        else:
            feeds: Iterator[Feed] = iter(samples)
            quantize_child.quantize_static(mode.partition("-")[2], path, feeds, request["out"])

    limit = int(request["memory_gib"] * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    forget_peak()
    baseline, start = memory_kib("VmRSS"), cpu_seconds()
    work()
    peak = memory_kib("VmHWM")
    return {
        "cpu_s": cpu_seconds() - start,
        "peak_mib": peak / 1024,
        "added_mib": (peak - baseline) / 1024,
    }


def table(rows: list[Row]) -> str:
    """Markdown; the ratio is to inference over as many samples."""
    plain = {row["samples"]: row["cpu_s"] for row in rows if row["mode"] == "inference"}
    lines = ["| | samples | CPU s | of inference | peak MiB | |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["mode"], str(row["samples"]), "", "", "", row.get("failure", "")]
        if "cpu_s" in row:
            cells[2], cells[4] = f"{row['cpu_s']:.1f}", f"{row['peak_mib']:.0f}"
            if plain.get(row["samples"]):
                cells[3] = f"{row['cpu_s'] / plain[row['samples']]:.2f}"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", default="16,64,256", help="default: %(default)s")
    parser.add_argument("--modes", default=",".join(MODES), help="default: %(default)s")
    parser.add_argument("--pipeline", default="quantize", help="graphopt's; default: %(default)s")
    parser.add_argument("--limit", type=float, default=1800.0, metavar="SECONDS")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GIB")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    unknown = [mode for mode in arguments.modes.split(",") if mode not in MODES]
    if unknown:
        sys.exit(f"unknown mode: {', '.join(unknown)}; known: {', '.join(MODES)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        for count in map(int, arguments.samples.split(",")):
            for mode in arguments.modes.split(","):
                request = {
                    "mode": mode,
                    "model": str(arguments.model),
                    "samples": count,
                    "pipeline": arguments.pipeline,
                    "memory_gib": arguments.memory,
                    "out": str(Path(folder) / "out.onnx"),
                    "result": str(result),
                }
                command = [sys.executable, __file__, CHILD, json.dumps(request)]
                failure = run_child(command, arguments.limit)
                row = {"mode": mode, "samples": count}
                row |= {"failure": failure} if failure else json.loads(result.read_text())
                rows.append(row)
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows), end="")


CHILD = "--child"

if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        use_one_core()
        given = json.loads(sys.argv[2])
        Path(given["result"]).write_text(json.dumps(measure(given)))
    else:
        main()
