"""How much of each model prune-channels can cut, and whether the cut is exact.

    python tools/bench_prune.py FOLDER --json prune.json --markdown docs/pruning-coverage.md
    python tools/bench_prune.py FOLDER --json prune.json --torch /path/to/other/bin/python

At 30% and 50% of the channels of every group (score l1, nothing refitted, nothing rounded): what is
left of the multiply-accumulates and parameters, and the check that matters: the pruned model has to
give what the original gives with the same channels silenced (what reads them reads zeros, norms are
over the others), up to 1e-9 of the peak of an output in float64 (onnx's reference evaluator, where
that runs it), and up to 1e-6 in float32: in ONNX Runtime, or, where its order of sums exceeds that,
in an evaluation that does not depend on it. Such models are named. Models that leave height, width
or length free also run at others.

Beside it, with `--torch`, Torch-Pruning prunes the PyTorch nets that `export_models.py` exports, in
the environment of that interpreter: torch, timm, transformers and torch-pruning.

Every model is a process of its own with a time limit. What is in the JSON file already, for the
same bytes of the model, is not run again. The exit code is 1 if a cut is not exact.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from onnx_files import digest, onnx_files
from processes import answer
from prune_report import STYLES, is_exact, markdown, print_table

from graphopt.cli.progress import Bars

HERE = Path(__file__).resolve().parent
RATIOS = (0.3, 0.5)
PEER = "torch-pruning"


def bench(model: Path, limit_s: float) -> dict[str, Any]:
    """What `prune_child.py` says of a model; or how it failed."""
    request = {"model": str(model), "ratios": RATIOS}
    return answer([sys.executable, str(HERE / "prune_child.py")], request, limit_s)


def bench_peer(python: str, name: str, limit_s: float) -> dict[str, Any]:
    """The same of Torch-Pruning on an architecture of `model_list.py`, at the larger share."""
    request = {"name": name, "ratios": RATIOS[-1:]}
    return answer([python, str(HERE / "prune_torch.py")], request, limit_s)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="folders, or ONNX files")
    parser.add_argument("--torch", metavar="PYTHON", help="compare with Torch-Pruning there")
    parser.add_argument("--limit", type=float, default=600.0, metavar="SECONDS", help="for a child")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results, kept after each model")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    models = onnx_files(arguments.models)
    report: dict[str, Any] = {"models": {}, PEER: {}}
    if arguments.json is not None and arguments.json.exists():
        report |= json.loads(arguments.json.read_text())

    def keep() -> None:
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")

    for model in Bars().track(models, "models", total=len(models)):
        sha256 = digest(model)
        if report["models"].get(model.stem, {}).get("sha256") != sha256:
            found = bench(model, arguments.limit)
            report["models"][model.stem] = {"sha256": sha256, **found}
            keep()
    exported = [model for model in models if Path(model.stem).suffix[1:] in STYLES]
    names = list(dict.fromkeys(Path(model.stem).stem for model in exported))
    for name in Bars().track(names if arguments.torch else [], "Torch-Pruning", total=len(names)):
        if name not in report[PEER]:
            report[PEER][name] = bench_peer(arguments.torch, name, arguments.limit)
            keep()
    shown = {model.stem: report["models"][model.stem] for model in models}
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(shown, report[PEER]))
    print_table(shown)
    return 0 if all(is_exact(row) for row in shown.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
