"""The outputs of a model over a task's data; `bench_quantize.py` starts it in its own process.

    python quantize_score.py '{"model": "a.onnx", "evaluation": "e.npz", "outputs": "o.npy", ...}'

ONNX Runtime with its optimizations off, so that what is measured is the model itself. With
`original`, for a model that is for ONNX Runtime on CPU, the outputs with the optimizations on go
into `optimized`, and the ratio of the latencies, measured in turns, into the file `result`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from quantize_child import batch_size
from quantize_tasks import LABELS

import graphopt
from graphopt.data.feeds import Feed
from graphopt.runtime.latency import latencies
from graphopt.runtime.session import Session

BATCH = 50


def outputs(model: str, inputs: Feed, *, optimize: bool) -> np.ndarray:
    """The first output over all samples, as float32."""
    session = Session(graphopt.load(model), optimize=optimize, threads=1)
    count = len(next(iter(inputs.values())))
    size = BATCH if batch_size(model) > 1 else 1
    parts = [
        session.run(take(inputs, start, size))[session.outputs[0]]
        for start in range(0, count, size)
    ]
    return np.concatenate(parts).astype(np.float32)


def take(inputs: Feed, start: int, size: int) -> Feed:
    return {name: array[start : start + size] for name, array in inputs.items()}


def main() -> None:
    request = json.loads(sys.argv[1])
    with np.load(request["evaluation"]) as file:
        inputs = {n: file[n][: request["limit"]] for n in file.files if n != LABELS}
    np.save(request["outputs"], outputs(request["model"], inputs, optimize=False))
    if "original" in request:
        np.save(request["optimized"], outputs(request["model"], inputs, optimize=True))
        pair = [graphopt.load(request[key]) for key in ("original", "model")]
        before, after = latencies(pair, take(inputs, 0, 1))
        Path(request["result"]).write_text(json.dumps({"latency_ratio": after / before}))


if __name__ == "__main__":
    main()
