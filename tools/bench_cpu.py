"""How long models take in ONNX Runtime on one core: as floats, and quantized for a CPU.

    python tools/bench_cpu.py MODEL... [--batch 1 16] [--size 224] [--islands] [--seconds 10]

Each model is simplified and fused (`lossless`) for one side and quantized by the range of noise for
the other, which costs accuracy but no time. The two run in turn, so that what else the machine does
meets both; the figures are medians, in milliseconds of a run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from graphopt import optimize, save

LOSSLESS = "lossless"
PLAIN = "equalize=false,tune_ranges=false,round_weights=false,correct_bias=false"
LEAST_RUNS = 8


def session(model: str, passes: str, folder: str) -> tuple[ort.InferenceSession, str]:
    """`model` through `passes`, ready to run on one core, and how much of it is quantized."""
    calibration = None if passes == LOSSLESS else "random{n=4}"
    result = optimize(
        model, passes, calibration=calibration, target="onnxruntime-cpu", verify="off"
    )
    path = Path(folder) / "model.onnx"
    save(result.model, path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    details = result.report.steps[-1].details
    layers = len(details.get("quantized", ()))
    told = f"{layers} of {layers + len(details.get('float', ()))}"
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]), told


def feed_of(session: ort.InferenceSession, batch: int, size: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    feed = {}
    for value in session.get_inputs():
        free = [batch, *[size] * (len(value.shape) - 1)]
        shape = [n if isinstance(n, int) and n > 0 else free[i] for i, n in enumerate(value.shape)]
        feed[value.name] = generator.standard_normal(shape).astype(np.float32)
    return feed


def compare(
    sessions: list[ort.InferenceSession], feed: dict[str, np.ndarray], seconds: float
) -> list[float]:
    """The median milliseconds of a run of each."""
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while len(times[0]) < LEAST_RUNS or time.perf_counter() < end:
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            taken.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(taken)) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--size", type=int, default=224, help="of free axes other than the first")
    parser.add_argument("--islands", action="store_true", help="quantize what is slower so, too")
    parser.add_argument("--seconds", type=float, default=5, help="for each model and batch")
    given = parser.parse_args()
    options = PLAIN + (",islands=true" if given.islands else "")
    print("| model | batch | layers in integers | float ms | quantized ms | of the time |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in given.models:
        with tempfile.TemporaryDirectory() as folder:
            plain, _ = session(model, LOSSLESS, folder)
            quantized, layers = session(model, f"{LOSSLESS},quantize{{{options}}}", folder)
        for batch in given.batch:
            feed = feed_of(plain, batch, given.size)
            floating, integer = compare([plain, quantized], feed, given.seconds)
            print(
                f"| {Path(model).stem} | {batch} | {layers} | {floating:.2f} | {integer:.2f} "
                f"| {integer / floating:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
