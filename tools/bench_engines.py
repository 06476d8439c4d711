"""Does every model build for every GPU, and does it compute in what it was made for?

    python tools/bench_engines.py FOLDER fixtures --json engines.json --markdown docs/engines.md
    python tools/bench_engines.py MODEL.onnx --targets sm86 sm120

As it is, simplified, in fp16, in int8+fp16, and that with 30% of its channels pruned, each model is
built with TensorRT-RTX for each target, without a GPU: seconds, kernels, the precision that each
node computes in, bytes. int8+fp16 is built for sm75 too, which is reported only. Where a model has
a calib.npz beside it, that calibrates it; the others get noise.

Every model is a process of its own with a time limit. What is in the JSON file already, for the
same bytes of the model and the same targets, is not run again, unless it came to no end: delete the
file to run all anew. The exit code is 1 if a model does not build, or if a node that `quantize`
lists as quantized is not in an int8 kernel.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from engines_report import broken, markdown, remarks, summary
from onnx_files import digest, onnx_files
from processes import answer

from graphopt.cli.progress import Bars

HERE = Path(__file__).resolve().parent
TARGETS = ("sm80", "sm86", "sm89", "sm120")


def bench(model: Path, targets: Sequence[str], limit_s: float) -> dict[str, Any]:
    """What `engines_child.py` says of a model, and if it did not come to its end how it failed."""
    request = {"model": str(model), "targets": targets}
    return answer([sys.executable, str(HERE / "engines_child.py")], request, limit_s)


def _is_done(row: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether `row` came to its end, for the same bytes and targets."""
    return key.items() <= row.items() and "failure" not in row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="folders, or ONNX files")
    parser.add_argument("--targets", nargs="+", default=TARGETS, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="models at a time")
    parser.add_argument(
        "--limit", type=float, default=3600.0, metavar="SECONDS", help="for one model"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="results, kept after each model")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    models = onnx_files(arguments.models)
    keys = {
        model: {"sha256": digest(model), "targets": list(arguments.targets)} for model in models
    }
    report: dict[str, Any] = {}
    if arguments.json is not None and arguments.json.exists():
        report = json.loads(arguments.json.read_text())
    left = [model for model in models if not _is_done(report.get(model.stem, {}), keys[model])]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {
            pool.submit(bench, model, arguments.targets, arguments.limit): model for model in left
        }
        for future in Bars().track(as_completed(futures), "models", total=len(left)):
            model = futures[future]
            report[model.stem] = {**keys[model], **future.result()}
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    shown = {model.stem: report[model.stem] for model in models}
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(shown))
    wrong = {name: broken(row) for name, row in shown.items()}
    for judged in (wrong, {name: remarks(row) for name, row in shown.items()}):
        for name, lines in judged.items():
            print(*(f"{name}: {line}\n" for line in lines), sep="", end="")
    print("\n".join(summary(shown)))
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
