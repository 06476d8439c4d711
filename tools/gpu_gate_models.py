"""The models for gpu_gate.py, made on any machine: no GPU is needed.

    python tools/gpu_gate_models.py OUT                              # the fixtures
    python tools/gpu_gate_models.py OUT MODEL.onnx --data calib.npz  # others

For each model OUT/<name> holds real inputs, and the model in fp32, in fp16, in int8 with the rest
in fp16, and the same with 30% of its channels pruned; where TensorRT-RTX is installed also the
kernel table of each variant's build for --target. A variant that cannot be made is left out, and
said; gpu_gate.py then says that it skipped it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

import graphopt
from graphopt.cli.progress import Bars
from graphopt.data.feeds import input_specs, join
from graphopt.data.samples import open_samples
from graphopt.emit.tensorrt import batch_shapes, build_engine
from graphopt.errors import GraphoptError
from graphopt.report.json import write_json
from graphopt.targets import get_target

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SAMPLES = 32
PIPELINES = {
    "fp32": "lossless",
    "fp16": "fp16",
    "int8": "int8-fp16",
    "pruned": "lossless,prune-channels{ratio=0.3},quantize,cast-precision",
}


def make(model: Path, data: str, out: Path, target: str) -> list[str]:
    """Makes the folder of one model; returns what was left out, and why."""
    folder = out / model.stem
    folder.mkdir(parents=True, exist_ok=True)
    loaded = graphopt.load(model)
    samples = open_samples(data, input_specs(loaded))
    feed = join(list(islice(samples, SAMPLES)))
    with (folder / "samples.npz").open("wb") as file:
        np.savez(file, **feed)
    missing = []
    for variant, pipeline in PIPELINES.items():
        path = folder / f"{variant}.onnx"
        try:
            made = graphopt.optimize(
                model, pipeline, calibration=data, target=target, latency=False, verify="off"
            )
            graphopt.save(made.model, path)
            report = build_engine(
                path,
                folder / "scratch.engine",
                target=get_target(target),
                shapes=batch_shapes(made.model),
            )
            write_json(report, folder / f"{variant}.json")
        except GraphoptError as error:
            what = "its report" if path.exists() else "it"
            missing.append(f"{model.stem}/{variant}: {what} is left out: {error}")
    (folder / "scratch.engine").unlink(missing_ok=True)
    return missing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="*", help="ONNX files (default: the fixtures)")
    parser.add_argument("--data", default=str(FIXTURES / "calib.npz"), help="real samples")
    parser.add_argument("--target", default="sm86", help="what the kernel tables are for")
    options = parser.parse_args(arguments)
    models = options.models or sorted(FIXTURES.glob("*.onnx"))
    for model in Bars().track(models, "models", len(models)):
        for line in make(model, options.data, options.out, options.target):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
