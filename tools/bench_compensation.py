"""What pruning costs in accuracy, by score and by compensation: the tables of docs/pruning.md.

    python tools/bench_compensation.py DATA --json runs.json            # every net, every score
    python tools/bench_compensation.py DATA --json runs.json --nets vit --scores l1,activation
    python tools/bench_compensation.py DATA --json runs.json --nets= --write docs/pruning.md

DATA is a folder for what is made once: Fashion-MNIST's test images, and the MLP, which is trained
there (a minute; needs torch). Nets get `lossless` first and are cut with `align=1`; they see 512
images without labels, and are scored on all 10,000 test images in ONNX Runtime.

Runs that the JSON file holds are not made again, so a long bench can be stopped, extended, or its
page made again. One thread; seconds are of CPU time and of `prune-channels` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from quantize_tasks import FASHION, FIXTURES, LABELS, MissingError, Task, fixture, top1

import graphopt
from graphopt.cli.progress import Bars
from graphopt.data.feeds import input_specs
from graphopt.data.samples import open_samples
from graphopt.errors import GraphoptError
from graphopt.pipeline.base import PassContext
from graphopt.runtime.session import Session
from graphopt_passes.prune_channels import PruneChannels

BEGIN, END = "<!-- bench_compensation: begin -->", "<!-- bench_compensation: end -->"
NETS = ("resnet", "mobilenet", "vit", "mlp")
RATIOS = (0.3, 0.5)
SHARES = (0.47, 0.75)
"""Of the MACs, to cut where it costs the least: `macs=`, with the defaults."""
COMPENSATIONS = ("none", "bias", "scale-shift", "ls")
BATCH = 250
Row = dict[str, Any]


def options_of(name: str) -> tuple[str, ...]:
    """The values that an option of prune-channels takes."""
    return get_args(get_type_hints(PruneChannels)[name])


CHOICES = {"nets": NETS, "scores": options_of("score"), "compensations": COMPENSATIONS}


def task_of(net: str, data: Path) -> Task:
    """A fixture, or the MLP, which is trained if it is not in `data` yet.

    Raises:
        MissingError: without what training needs.
    """
    found = fixture(net, data)
    if (FIXTURES / f"{net}.onnx").exists():
        return found
    model = data / f"{net}.onnx"
    if not model.exists():
        try:
            from fixtures_data import read_splits
            from make_fixtures import make_net
        except ImportError as error:
            raise MissingError(f"training it needs {error.name}: pip install torch") from None
        if not FASHION.is_dir():
            raise MissingError("training it needs Debian's package dataset-fashion-mnist")
        make_net(net, read_splits(FASHION), data, quick=False)
    return Task(net, model, found.calibration, found.evaluation)


class Arena:
    """One net, simplified, with its samples and its labelled images."""

    def __init__(self, task: Task) -> None:
        self.model = graphopt.optimize(task.model, "lossless", verify="off").model
        self.samples = open_samples(str(task.calibration), input_specs(self.model))
        with np.load(task.evaluation) as file:
            (name,) = set(file.files) - {LABELS}
            self._images, self._labels = file[name], file[LABELS]
        self.cost = graphopt.measure(self.model)
        self.score = self._score(self.model)

    def run(self, **options: Any) -> Row:
        """Prunes; how far MACs, parameters and top-1 (in points) fall, and CPU seconds."""
        step = PruneChannels(**options, align=1)
        started = time.process_time()
        result = step.run(self.model, PassContext(calibration=self.samples))
        seconds = time.process_time() - started
        cost = graphopt.measure(result.model)
        return {
            "float": self.score,
            "score": self._score(result.model),
            "macs_cut": 100 * (1 - cost.macs / self.cost.macs),
            "parameters_cut": 100 * (1 - cost.parameters / self.cost.parameters),
            "seconds": seconds,
        }

    def _score(self, model: Any) -> float:
        session = Session(model, optimize=True, threads=1)
        (name,) = session.inputs
        parts = np.array_split(self._images, max(1, len(self._images) // BATCH))
        outputs = [next(iter(session.run({name: part}).values())) for part in parts]
        return top1(np.concatenate(outputs), self._labels)


def key_of(net: str, score: str, compensate: str, ratio: float) -> str:
    return f"{net} {score} {compensate} {ratio:g}"


def default_runs() -> list[tuple[str, Row]]:
    """How much the defaults cut, each with the end of its key and the options of the pass."""
    default = f"{PruneChannels().score} {PruneChannels().compensate}"
    uniform = [(f"{default} {ratio:g}", {"ratio": ratio}) for ratio in RATIOS]
    return uniform + [(f"{default} macs={share:g}", {"macs": share}) for share in SHARES]


def tables(runs: dict[str, Row]) -> str:
    """The runs as Markdown: a line per net, and for each net scores by compensations."""
    parts = [key.split() for key in runs]
    lines = ["| net | target | MACs cut | parameters cut | top-1 | after | change | CPU s |"]
    lines.append("|" + " --- |" * 8)
    for net in NETS:
        for key, options in default_runs():
            row = runs.get(f"{net} {key}")
            if row is not None:
                ((name, value),) = options.items()
                lines.append(
                    f"| {net} | `{name}={value:g}` | {row['macs_cut']:.0f}% "
                    f"| {row['parameters_cut']:.0f}% | {row['float']:.2f} | {row['score']:.2f} "
                    f"| {row['score'] - row['float']:+.2f} | {row['seconds']:.1f} |"
                )
    for net in NETS:
        scores = list(dict.fromkeys(score for name, score, *_ in parts if name == net))
        if not scores:
            continue
        whole = next(row["float"] for key, row in runs.items() if key.split()[0] == net)
        columns = [f"{ratio:.0%} {way}" for ratio in RATIOS for way in COMPENSATIONS]
        lines += [
            "",
            f"`{net}`, {whole:.2f} before:",
            "",
            "| score | " + " | ".join(columns) + " |",
        ]
        lines.append("|" + " --- |" * (1 + len(columns)))
        for score in scores:
            cells = [
                runs.get(key_of(net, score, way, ratio), {}).get("score")
                for ratio in RATIOS
                for way in COMPENSATIONS
            ]
            shown = ["" if cell is None else f"{cell:.1f}" for cell in cells]
            lines.append(f"| {score} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def fill(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """`page` with `text` between its marks.

    Raises:
        ValueError: if it does not hold both, in order.
    """
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"no block between '{begin}' and '{end}'")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a folder for what is made once")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="all runs")
    for name, known in CHOICES.items():
        parser.add_argument(f"--{name}", default=",".join(known), help="default: %(default)s")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page with a marked block")
    arguments = parser.parse_args()
    for name, known in CHOICES.items():
        chosen = [value for value in getattr(arguments, name).split(",") if value]
        unknown = [value for value in chosen if value not in known]
        if unknown:
            parser.error(f"--{name}: unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        setattr(arguments, name, chosen)
    return arguments


def main() -> int:
    arguments = _arguments()
    arguments.data.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Row] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    arena = cache(lambda net: Arena(task_of(net, arguments.data)))
    wanted = {
        key_of(net, score, way, ratio): (net, {"score": score, "compensate": way, "ratio": ratio})
        for net in arguments.nets
        for score in arguments.scores
        for ratio in RATIOS
        for way in arguments.compensations
    }
    wanted |= {
        f"{net} {key}": (net, options) for net in arguments.nets for key, options in default_runs()
    }
    left = {key: run for key, run in wanted.items() if key not in runs}
    for key, (net, options) in Bars().track(left.items(), "pruning", total=len(left)):
        try:
            row = arena(net).run(**options)
        except MissingError as error:
            print(f"{net}: left out: {error}", file=sys.stderr)
            continue
        except GraphoptError as error:  # a score that has nothing to say of this net
            print(f"{key}: {error}", file=sys.stderr)
            continue
        runs[key] = row
        # After each run: a long bench that is stopped leaves what it has.
        arguments.json.write_text(json.dumps(runs, indent=1) + "\n")
    text = tables(runs)
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(fill(arguments.write.read_text(), text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
