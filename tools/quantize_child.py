"""One tool quantizes one model in a process of its own; `bench_quantize.py` starts it.

    python quantize_child.py '{"tool": "ort", "setting": "minmax", "model": "a.onnx", ...}'

It imports the tool, numpy and onnx, and nothing of graphopt's, so that each tool may live in an
environment of its own. What it measured goes as JSON into the file `result`: CPU and wall seconds,
peak memory. Imports are done before the clock starts.

Every tool is asked for what TensorRT takes: symmetric int8, weights per channel, data per tensor,
float biases; for `cpu` settings, what ONNX Runtime documents for its own kernels.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from processes import cpu_seconds, forget_peak, memory_kib, use_one_core

BATCH = 16
Feed = dict[str, np.ndarray]
Quantizer = Callable[[str, Feed, str], object]
"""Takes a model's path, the samples by input (stacked), and the path of the result."""

SETTINGS = {
    "graphopt": (),
    "ort": ("minmax", "percentile", "entropy", "cpu"),
    "modelopt": ("max", "entropy"),
    "nncf": ("default", "plain", "transformer"),
}
DISTRIBUTIONS = {"ort": "onnxruntime", "modelopt": "nvidia-modelopt"}


def open_tool(name: str, setting: str, request: dict[str, Any]) -> Quantizer:
    """Imports the tool called `name`; raises ImportError if it is not installed."""
    if name == "graphopt":
        return _graphopt(request.get("pipeline", ""), request.get("target", "generic"))
    openers = {"ort": _ort, "modelopt": _modelopt, "nncf": _nncf}
    return openers[name](setting)


def feeds(samples: Feed, size: int) -> Iterator[Feed]:
    """The samples in batches of `size`."""
    count = len(next(iter(samples.values())))
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in samples.items()}


def batch_size(path: str) -> int:
    """BATCH where the first axis of every input is free, otherwise 1."""
    graph = onnx.load(path, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in held]
    dims = [value.type.tensor_type.shape.dim for value in inputs]
    return BATCH if all(len(d) > 0 and d[0].dim_value <= 0 for d in dims) else 1


def _graphopt(pipeline: str, target: str) -> Quantizer:
    import graphopt
    from graphopt.data.arrays import ArraySamples
    from graphopt.data.feeds import input_specs

    def quantize(model: str, samples: Feed, out: str) -> None:
        loaded = graphopt.load(model)
        data = ArraySamples("calibration samples", samples, input_specs(loaded))
        result = graphopt.optimize(model, pipeline, calibration=data, target=target, verify="off")
        graphopt.save(result.model, out)

    return quantize


def _ort(setting: str) -> Quantizer:
    import onnxruntime.quantization  # noqa: F401

    def quantize(model: str, samples: Feed, out: str) -> None:
        quantize_static(setting, model, feeds(samples, batch_size(model)), out)

    return quantize


def quantize_static(setting: str, model: str, batches: Iterator[Feed], out: str) -> None:
    """ONNX Runtime's quantizer, with the calibrator `setting`."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def get_next(self) -> Feed | None:
            return next(batches, None)

    methods = {
        "percentile": q.CalibrationMethod.Percentile,
        "entropy": q.CalibrationMethod.Entropy,
    }
    compute = ["Conv", "Gemm", "MatMul"]
    friendly: dict[str, Any] = {
        "op_types_to_quantize": compute,
        "activation_type": q.QuantType.QInt8,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": compute,
        },
    }
    options = {"activation_type": q.QuantType.QUInt8} if setting == "cpu" else friendly
    q.quantize_static(
        model,
        out,
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        weight_type=q.QuantType.QInt8,
        per_channel=True,
        calibrate_method=methods.get(setting, q.CalibrationMethod.MinMax),
        **options,
    )


def _modelopt(setting: str) -> Quantizer:
    from modelopt.onnx.quantization import quantize as modelopt_quantize

    def quantize(model: str, samples: Feed, out: str) -> None:
        modelopt_quantize(
            model,
            quantize_mode="int8",
            calibration_data=samples,
            calibration_method=setting,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=out,
        )

    return quantize


def _nncf(setting: str) -> Quantizer:
    import nncf

    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=setting == "plain")
    kind = nncf.ModelType.TRANSFORMER if setting == "transformer" else None

    def quantize(model: str, samples: Feed, out: str) -> None:
        count = len(next(iter(samples.values())))
        result = nncf.quantize(
            onnx.load(model),
            nncf.Dataset(list(feeds(samples, 1))),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=count,
            model_type=kind,
            advanced_parameters=advanced,
        )
        onnx.save(result, out)

    return quantize


def main() -> None:
    use_one_core()
    request = json.loads(sys.argv[1])
    tool = request["tool"]
    quantize = open_tool(tool, request["setting"], request)
    if "model" not in request:  # only asked whether the tool is there
        print(version(DISTRIBUTIONS.get(tool, tool)))
        return
    with np.load(request["calibration"]) as file:
        samples = {name: file[name][: request["samples"]] for name in file.files}
    limit = int(request["memory_gib"] * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    forget_peak()
    baseline = memory_kib("VmRSS")
    wall, start = time.perf_counter(), cpu_seconds()
    quantize(request["model"], samples, request["out"])
    measured = {
        "cpu_s": cpu_seconds() - start,
        "wall_s": time.perf_counter() - wall,
        "peak_mib": memory_kib("VmHWM") / 1024,
        "added_mib": (memory_kib("VmHWM") - baseline) / 1024,
    }
    Path(request["result"]).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
