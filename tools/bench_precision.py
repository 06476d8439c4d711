"""How much do every model's outputs keep in fp16 and bf16, and is what comes out a valid model?

    python tools/bench_precision.py FOLDER fixtures --json low.json --markdown docs/precision.md
    python tools/bench_precision.py MODEL.onnx

Each model goes through `lossless,cast-precision`; what comes of it is saved, loaded again, checked
by onnx.checker and compared with the original in fp32. ONNX Runtime's CPU computes a graph of fp16
in fp32 and rounds nothing between nodes, so it is not asked about that graph, but about one in fp32
in which each tensor of fp16 goes through a cast to fp16 and back (`low_tensors.py`). And onnx's
reference evaluator runs it, in fp16.

Samples are the calib.npz beside a model; drawn text for PP-OCR (with the fonts of Debian's packages
fonts-dejavu-core and fonts-liberation) and files for Magika, by their names; noise for the others.
Every model is a process of its own with a time limit. What is in the JSON file already, for the
same bytes of the model, is not run again, unless it failed. The exit code is 1 if a model is
invalid, gives NaN or infinity, or misses the goal of the pass.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from onnx_files import digest, onnx_files
from precision_report import broken, markdown, summary
from processes import answer

from graphopt.cli.progress import Bars

HERE = Path(__file__).resolve().parent


def bench(model: Path, limit_s: float, evaluator_s: float) -> dict[str, Any]:
    """What `precision_child.py` says of a model, or how it failed."""
    request = {"model": str(model), "limit_s": evaluator_s}
    return answer([sys.executable, str(HERE / "precision_child.py")], request, limit_s)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="folders, or ONNX files")
    parser.add_argument(
        "--limit", type=float, default=600.0, metavar="SECONDS", help="for one model"
    )
    parser.add_argument(
        "--evaluator",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="of CPU for a model in onnx's reference evaluator",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results, kept after each model")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    models = onnx_files(arguments.models)
    report: dict[str, Any] = {}
    if arguments.json is not None and arguments.json.exists():
        report = json.loads(arguments.json.read_text())
    for model in Bars().track(models, "models", total=len(models)):
        sha256, row = digest(model), report.get(model.stem, {})
        if row.get("sha256") == sha256 and "failure" not in row:
            continue
        found = bench(model, arguments.limit, arguments.evaluator)
        report[model.stem] = {"sha256": sha256, **found}
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    shown = {model.stem: report[model.stem] for model in models}
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(shown))
    wrong = {name: lines for name, row in shown.items() if (lines := broken(row))}
    for name, lines in wrong.items():
        print(*(f"{name}: {line}\n" for line in lines), sep="", end="")
    print("\n".join(summary(shown)))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
