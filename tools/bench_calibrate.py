"""What calibration costs beside plain inference over the same samples: time and memory.

    python tools/bench_calibrate.py MODEL [--samples 64] [--batch 1] [--peer 8]

Each figure comes from a fresh process, so that its peak memory is its own. Plain inference is ONNX
Runtime with all optimizations: `plain` on one thread, to compare processor time, and `default` on
as many as it takes, to compare time on an idle machine. `--peer N` adds ONNX Runtime's own entropy
calibrator, on N samples.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Images:
    """`number` samples of noise that are made as they are read."""

    number: int
    name: str
    shape: tuple[int, ...]
    is_random: bool = True
    description: str = "noise"

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        base = np.random.default_rng(0).standard_normal((1, *self.shape)).astype(np.float32)
        for index in range(self.number):
            yield {self.name: np.roll(base, index, axis=-1)}

    def count(self) -> int:
        return self.number


def opened(path: str, number: int) -> tuple[object, Images, list[str]]:
    from graphopt.ir import load, main_inputs

    model = load(path)
    (value,) = main_inputs(model)
    shape = tuple(dim if isinstance(dim, int) else 224 for dim in value.shape[1:])
    names = [str(n.inputs[0].name) for n in model.graph if n.op_type in OPERATORS]
    return model, Images(number, str(value.name), shape), list(dict.fromkeys(names))


def plain(path: str, number: int, batch: int, threads: int = 1) -> None:
    """ONNX Runtime alone."""
    import onnxruntime as ort

    from graphopt.data.feeds import batches, input_specs

    model, samples, _ = opened(path, number)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for feed, _ in batches(samples, input_specs(model), batch):
        session.run(None, feed)


def default(path: str, number: int, batch: int) -> None:
    """ONNX Runtime alone, with the threads that it takes."""
    plain(path, number, batch, threads=0)


def calibrate(path: str, number: int, batch: int) -> None:
    """graphopt: histograms, and a range from each."""
    from graphopt.calibration import choose_range, collect

    model, samples, names = opened(path, number)
    for histogram in collect(model, names, samples).values():
        choose_range(histogram, "mse")


def peer(path: str, number: int, batch: int) -> None:
    """ONNX Runtime's entropy calibrator, on the same tensors."""
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    _, samples, _ = opened(path, number)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            path,
            list(OPERATORS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Entropy,
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()


JOBS = {"plain": plain, "default": default, "calibrate": calibrate, "peer": peer}


def child(job: str, path: str, number: int, batch: int) -> dict[str, float]:
    """The figures of `job` over `number` samples, from a process of its own."""
    command = [sys.executable, __file__, path, "--samples", str(number), "--batch", str(batch)]
    done = subprocess.run([*command, "--job", job], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(job: str, path: str, number: int, batch: int) -> None:
    start, wall = time.process_time(), time.perf_counter()
    JOBS[job](path, number, batch)
    figures = {
        "cpu": time.process_time() - start,
        "wall": time.perf_counter() - wall,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


def report(path: str, number: int, batch: int, peers: int) -> None:
    """Prints a line for each job, and the ratios of what each further sample costs."""
    few = max(1, number // 16)
    runs = [
        (job, samples) for job in ("plain", "default", "calibrate") for samples in (few, number)
    ]
    runs += [("peer", peers)] if peers else []
    print(f"{path}\n{'':12}{'samples':>8}{'cpu s':>9}{'wall s':>9}{'peak MB':>9}")
    found: dict[tuple[str, int], dict[str, float]] = {}
    for job, samples in runs:
        found[job, samples] = f = child(job, path, samples, batch)
        line = f"{job:12}{samples:8}{f['cpu']:9.2f}{f['wall']:9.2f}{f['rss']:9.0f}"
        print(line, flush=True)

    def each(job: str, figure: str) -> float:
        return found[job, number][figure] - found[job, few][figure]

    if number > few:
        print(f"cpu:  calibrate / plain    {each('calibrate', 'cpu') / each('plain', 'cpu'):.2f}")
        print(
            f"wall: calibrate / default  {each('calibrate', 'wall') / each('default', 'wall'):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1, help="of plain inference")
    parser.add_argument("--peer", type=int, default=0, help="samples for ONNX Runtime's calibrator")
    parser.add_argument("--job", choices=list(JOBS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        measure(given.job, given.model, given.samples, given.batch)
    else:
        report(given.model, given.samples, given.batch, given.peer)


if __name__ == "__main__":
    main()
