"""How long models take in ONNX Runtime on one core: as they are, simplified, and made for a CPU.

    python tools/bench_cpu.py MODEL... [--batch 1 16] [--islands] [--seconds 5] [--markdown FILE]

Each model runs as it is, through `lossless`, and through `lossless,quantize` for the target
onnxruntime-cpu: in integers where these are faster, in float in ONNX Runtime's own layout
elsewhere. Ranges come from noise, which costs accuracy but no time. The three take turns of several
runs, so that what else the machine does meets all of them; the figures are medians, in milliseconds
of a run.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from random_samples import random_samples

import graphopt
from graphopt.data.feeds import batches, input_specs
from graphopt.runtime.latency import run_times

TARGET = "onnxruntime-cpu"
PLAIN = "equalize=false,tune_ranges=false,round_weights=false,correct_bias=false"
HEAD = ("model", "batch", "in integers", "as it is, ms", "simplified", "for a CPU", "of simplified")


@dataclass(frozen=True)
class Row:
    """A model at a batch size: what a run of it takes, in milliseconds."""

    name: str
    batch: int
    layers: str
    """How many of them are integers."""
    given: float
    simplified: float
    made: float

    def line(self) -> str:
        parts = (self.simplified / self.given, self.made / self.given, self.made / self.simplified)
        figures = (f"{self.given:.2f}", *(f"{part:.2f}" for part in parts))
        return f"| {' | '.join((self.name, str(self.batch), self.layers, *figures))} |"


def variants(path: Path, options: str) -> tuple[list[ir.Model], str]:
    """The model as it is, simplified, and for a CPU; and how much of it is integers."""
    given = graphopt.load(path)
    samples = random_samples(given, path.stem)
    simplified = graphopt.optimize(path, "lossless", target=TARGET, verify="off").model
    passes = f"lossless,quantize{{{options}}}"
    made = graphopt.optimize(
        path, passes, calibration=samples, target=TARGET, verify="off", latency=False
    )
    details = made.report.steps[-1].details
    layers = len(details.get("quantized", ()))
    told = f"{layers} of {layers + len(details.get('float', ()))}"
    return [given, simplified, made.model], told


def rows(path: Path, sizes: Sequence[int], options: str, seconds: float) -> Iterator[Row]:
    """A row for each batch size that the model takes."""
    models, layers = variants(path, options)
    specs = input_specs(models[0])
    sample = next(iter(random_samples(models[0], path.stem)))
    measured: set[int] = set()
    for wanted in sizes:
        feed, size = next(batches([sample] * wanted, specs, wanted))
        if size not in measured:
            measured.add(size)
            taken = run_times(models, feed, seconds=seconds, threads=1)
            yield Row(path.stem, size, layers, *(float(np.median(row)) for row in taken))


def page(lines: Sequence[str]) -> str:
    """The lines with what they say, for docs."""
    return "\n".join(
        (
            "# For a CPU",
            "",
            f"Made by `tools/bench_cpu.py` in one run, with ONNX Runtime {ort.__version__} on one "
            f"core ({platform.machine()}, with",
            "AVX-512 VNNI). Each model takes turns, of several runs, as it is, simplified "
            "(`lossless`), and with",
            "`lossless,quantize --target onnxruntime-cpu`, which leaves float what would be slower "
            "in integers",
            "(`keep-blocked` makes that faster where it can). Medians; of the time of the model as "
            "it is, and of that",
            "of the simplified one.",
            "",
            *lines,
            "",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--islands", action="store_true", help="quantize what is slower so, too")
    parser.add_argument("--seconds", type=float, default=5, help="for each model and batch")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args()
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    print(*lines, sep="\n")
    for path in given.models:
        options = PLAIN + (",islands=true" if given.islands else "")
        for row in rows(path, given.batch, options, given.seconds):
            lines.append(row.line())
            print(lines[-1], flush=True)
    if given.markdown is not None:
        given.markdown.write_text(page(lines))


if __name__ == "__main__":
    main()
