"""The process of gpu_gate.py that runs one engine: loads it, checks it, times it, looks into it.

    python tools/gpu_gate_run.py JOB.json

What was found is written part by part, so that a crash leaves what came before.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime as ort

from graphopt.emit.tensorrt.bundle.verify import (
    CannotRunError,
    Cuda,
    Engine,
    compare,
    load_cudart,
)

Row = dict[str, Any]
Feed = dict[str, Any]

WARMUP, RUNS = 20, 200
# What the outputs must keep of ONNX Runtime's, by variant, in dB.
LEAST_SQNR_DB = {"fp32": 40.0, "fp16": 35.0, "int8": 20.0, "pruned": 20.0}
SHAPES = ("least", "best", "greatest")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_TYPE = re.compile(r"\b(Int8|Int4|FP8|FP4|Half|FP16|BFloat16|BF16|Float|FP32)\b", re.IGNORECASE)
_TYPE_NAMES = {"half": "fp16", "float": "fp32", "bfloat16": "bf16"}


def passed(**figures: Any) -> Row:
    return {"status": "passed", "reason": "", "figures": figures}


def failed(reason: str, **figures: Any) -> Row:
    return {"status": "failed", "reason": reason, "figures": figures}


def skipped(reason: str) -> Row:
    return {"status": "skipped", "reason": reason, "figures": {}}


def run(job: Mapping[str, Any], trt: Any, cuda: Cuda, tell: Callable[[str, Row], None]) -> None:
    """Tries all parts of `job`, and tells of each."""
    try:
        engine = Engine(trt, cuda, Path(job["engine"]).read_bytes())
    except CannotRunError as error:
        tell("deserialize", failed(str(error)))
        return
    name = "device_memory_size_v2" if hasattr(engine.engine, "device_memory_size_v2") else None
    name = name or "device_memory_size"
    tell("deserialize", passed(device_memory_bytes=int(getattr(engine.engine, name))))
    feeds = list(feeds_of(job["samples"], job["profile"]))
    for part, work in (
        ("parity", lambda: parity(engine, job, feeds)),
        ("latency", lambda: latency(engine, feeds)),
        ("inspector", lambda: inspector(trt, engine, job["report"])),
    ):
        try:
            tell(part, work())
        except CannotRunError as error:
            tell(part, failed(str(error)))


def feeds_of(samples: str, profile: Mapping[str, Any]) -> Iterator[tuple[str, Feed]]:
    """Real inputs at the least, best and greatest shapes; a static model has one case.

    The first axis is filled with samples, from the first again after the last; the other axes of a
    sample must be as the profile has them.
    """
    with np.load(samples) as file:
        arrays = dict(file)
    for which, label in enumerate(SHAPES):
        if not profile and which != 1:
            continue
        feed = {}
        for name, array in arrays.items():
            size = profile[name][which][0] if name in profile else None
            if size is None:
                feed[name] = array[:1]
            else:
                feed[name] = np.take(array, np.arange(size) % len(array), axis=0)
        yield label, feed


def parity(engine: Engine, job: Mapping[str, Any], feeds: Sequence[tuple[str, Feed]]) -> Row:
    """Against ONNX Runtime on the CPU with its own rewrites off, on the same graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    least = LEAST_SQNR_DB[job["variant"]]
    figures: dict[str, str] = {}
    bad = []
    for label, feed in feeds:
        found = engine.run(feed)
        for name, expected in zip(names, session.run(None, feed), strict=True):
            agreement = compare(expected, found[name])
            figures[f"{label} {name}"] = str(agreement)
            if not agreement.within(least):
                bad.append(f"{name} at the {label} shapes")
    if bad:
        return failed(f"below {least:g} dB: {', '.join(bad)}", **figures)
    return passed(**figures)


def latency(engine: Engine, feeds: Sequence[tuple[str, Feed]]) -> Row:
    """Milliseconds of one run at the best shapes, between two events on the engine's stream."""
    cuda = engine.cuda
    feed = next(feed for label, feed in feeds if label == "best")
    addresses: list[int] = []
    try:
        engine.prepare(feed, addresses)
        start, end = _event(cuda), _event(cuda)
        stream = ctypes.c_void_p(engine.stream)
        for _ in range(WARMUP):
            engine.enqueue()
        cuda.synchronize()
        times = []
        for _ in range(RUNS):
            cuda.call("cudaEventRecord", start, stream)
            engine.enqueue()
            cuda.call("cudaEventRecord", end, stream)
            cuda.call("cudaEventSynchronize", end)
            milliseconds = ctypes.c_float()
            cuda.call("cudaEventElapsedTime", ctypes.byref(milliseconds), start, end)
            times.append(milliseconds.value)
    finally:
        for address in addresses:
            cuda.free(address)
    median, low, high = (float(np.percentile(times, at)) for at in (50, 10, 90))
    batch = next((int(array.shape[0]) for array in feed.values() if array.ndim), 1)
    return passed(median_ms=median, p10_ms=low, p90_ms=high, batch=batch)


def _event(cuda: Cuda) -> ctypes.c_void_p:
    event = ctypes.c_void_p()
    cuda.call("cudaEventCreate", ctypes.byref(event))
    return event


def inspector(trt: Any, engine: Engine, report: str | None) -> Row:
    """The types that this GPU's engine computes in, against the kernel table of the CPU's build."""
    text = engine.engine.create_engine_inspector().get_engine_information(
        trt.LayerInformationFormat.JSON
    )
    layers = json.loads(text).get("Layers", [])
    here = node_types(layers)
    if not here:
        return skipped(f"the inspector names no node in {len(layers)} layers")
    if report is None:
        return skipped("there is no report of a build on a CPU beside the model")
    nodes = json.loads(Path(report).read_text("utf-8"))["compute_nodes"] or []
    wanted = {node["name"]: node["precision"] for node in nodes if node["precision"]}
    known = {name: types for name, types in here.items() if name in wanted}
    if not known:
        return skipped("the inspector and the kernel table have no node in common")
    other = {n: sorted(t) for n, t in known.items() if wanted[n] not in t}
    figures = {
        "layers": len(layers),
        "nodes": len(wanted),
        "found": len(known),
        "same_type": len(known) - len(other),
    }
    if other:
        first = [f"{name} {'/'.join(types)}, not {wanted[name]}" for name, types in other.items()]
        return failed(f"other types than on the CPU: {'; '.join(first[:5])}", **figures)
    return passed(**figures)


def node_types(layers: Sequence[Any]) -> dict[str, set[str]]:
    """The types of what each ONNX node's layers read; of layers that say so.

    A layer's `Metadata` names the nodes, separated by 0x1F. Its inputs' types are in the text of
    `Format/Datatype` or `Datatype`, depending on the version.
    """
    found: dict[str, set[str]] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            continue  # names alone: the engine was built without detail
        types = set()
        for tensor in layer.get("Inputs", []):
            told = tensor.get("Datatype") or tensor.get("Format/Datatype") or ""
            types |= {_TYPE_NAMES.get(t.lower(), t.lower()) for t in _TYPE.findall(told)}
        for node in _NODE.findall(layer.get("Metadata", "")):
            if types:
                found.setdefault(node, set()).update(types)
    return found


def main(path: Path) -> None:
    job = json.loads(path.read_text("utf-8"))
    found: dict[str, Row] = {}

    def tell(part: str, row: Row) -> None:
        found[part] = row
        Path(job["found"]).write_text(json.dumps(found), "utf-8")

    try:
        cuda = load_cudart()
    except CannotRunError as error:
        for part in ("deserialize", "parity", "latency", "inspector"):
            tell(part, skipped(str(error)))
        return
    run(job, importlib.import_module(job["module"]), cuda, tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
