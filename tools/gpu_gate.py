"""What only a GPU can show, in one run on a machine that has one.

    python tools/gpu_gate.py MODELS                     # folders made by tools/gpu_gate_models.py
    python tools/gpu_gate.py MODELS --wheels FOLDER     # with TensorRT-RTX from wheel files there

Each folder in MODELS is one model: samples.npz with real inputs, and the variants fp32.onnx,
fp16.onnx, int8.onnx and pruned.onnx, whichever there are; beside a variant may lie the report of
its build on a CPU (fp32.json, of `graphopt build --json`). For each variant:

    build        the engine for this GPU, with the compiler's own builder
    deserialize  it is loaded
    parity       with ONNX Runtime, on real inputs at the least, best and greatest shapes
    latency      at the best shapes: inputs and outputs stay on the GPU, no CUDA graph
    inspector    each layer's data types against the kernel table of the CPU's build

It needs Python, numpy, onnx, onnxruntime, and TensorRT or TensorRT-RTX. A part that cannot run is
"skipped", with the reason, and never passed. With a GPU, docs/gpu/<gpu>-<date>.json is written. The
exit status is 1 if a part failed.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import gpu_gate_run as gate_run  # noqa: E402

from graphopt.emit.tensorrt.gpu import compute_capability  # noqa: E402
from graphopt.emit.tensorrt.process import build_in_child  # noqa: E402
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult  # noqa: E402
from graphopt.emit.tensorrt.shapes import (  # noqa: E402
    DEFAULT_BATCH,
    InputSpec,
    ShapeRange,
    profile_of,
)
from graphopt.errors import GraphoptError  # noqa: E402

VARIANTS = ("fp32", "fp16", "int8", "pruned")
PARTS = ("build", "deserialize", "parity", "latency", "inspector")
MODULES = ("tensorrt", "tensorrt_rtx")
LIMIT_S = 600.0
SETTINGS = {
    "cuda_graph": False,
    "transfers": False,
    "warmup_runs": gate_run.WARMUP,
    "timed_runs": gate_run.RUNS,
}


@dataclass(frozen=True)
class Part:
    """One thing that was tried, or why not.

    Attributes:
        status: "passed", "failed" or "skipped".
        reason: why it failed or was skipped.
    """

    model: str
    variant: str
    part: str
    status: str
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """What is here.

    Attributes:
        gpu: its name; None if there is no GPU.
        capability: its compute capability.
        module: the builder's package; None if there is none.
    """

    gpu: str | None
    capability: str | None
    module: str | None

    def missing(self) -> str | None:
        """Why nothing can be tried here; None if it can."""
        if self.gpu is None:
            return "there is no GPU here (libcuda.so.1 is missing or finds none)"
        if self.module is None:
            return f"none of {', '.join(MODULES)} is installed; give wheel files with --wheels"
        return None


def find_machine(load: Callable[[str], Any] = ctypes.CDLL) -> Machine:
    """The GPU by the CUDA driver, and the first builder that is installed."""
    capability = compute_capability(load)
    name = None
    if capability is not None:
        buffer = ctypes.create_string_buffer(256)
        status = load("libcuda.so.1").cuDeviceGetName(buffer, len(buffer), 0)
        name = buffer.value.decode() if status == 0 else f"GPU {capability}"
    module = next((name for name in MODULES if importlib.util.find_spec(name)), None)
    return Machine(name, capability, module)


def unpack_wheels(folder: Path, into: Path) -> None:
    """Makes the wheels in `folder` importable, here and in child processes: no pip is needed."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise GraphoptError("holds no wheel files", where=str(folder))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    sys.path.insert(0, str(into))
    importlib.invalidate_caches()


def gate(models: Path, machine: Machine, work: Path) -> list[Part]:
    """All parts of all variants of all models in the folder `models`."""
    folders = sorted(path.parent for path in models.glob("*/samples.npz"))
    if not folders:
        raise GraphoptError(
            "holds no folder with a samples.npz", where=str(models), fix="see gpu_gate_models.py"
        )
    parts: list[Part] = []
    for folder in folders:
        for variant in VARIANTS:
            parts += _variant(folder, variant, machine, work)
    return parts


def _variant(folder: Path, variant: str, machine: Machine, work: Path) -> list[Part]:
    model = folder / f"{variant}.onnx"

    def skip(names: Iterable[str], reason: str) -> list[Part]:
        return [Part(folder.name, variant, name, "skipped", reason) for name in names]

    if not model.is_file():
        return skip(PARTS, f"there is no {model.name}")
    reason = machine.missing()
    if reason is not None:
        return skip(PARTS, reason)
    engine = work / f"{folder.name}-{variant}.engine"
    try:
        result = _build(model, engine, machine)
    except GraphoptError as error:
        unsupported = "cannot build for compute capability" in error.what
        status = "skipped" if unsupported else "failed"
        first = Part(folder.name, variant, "build", status, str(error))
        return [first, *skip(PARTS[1:], "there is no engine")]
    figures = {"seconds": result.build_seconds, "bytes": result.engine_bytes}
    built = Part(folder.name, variant, "build", "passed", figures=figures)
    return [built, *_run(folder, variant, machine, engine, result, work)]


def _build(model: Path, engine: Path, machine: Machine) -> BuildResult:
    request = BuildRequest(
        model=str(model),
        engine=str(engine),
        target=machine.gpu or "",
        sm=machine.capability,
        opsets=None,
        shapes=_batches(model),
        timeout_s=LIMIT_S,
    )
    return build_in_child(machine.module or "", request)


def _batches(model: Path) -> dict[str, ShapeRange]:
    """Batches of 1, 8 and 32: what gpu_gate_models.py built for."""
    specs = []
    graph = onnx.load(model, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in stored:
            dims = value.type.tensor_type.shape.dim
            sizes = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
            specs.append(InputSpec(value.name, sizes, tuple(d.dim_param or None for d in dims)))
    return profile_of(specs, {}, batch=DEFAULT_BATCH)


def _run(
    folder: Path, variant: str, machine: Machine, engine: Path, result: BuildResult, work: Path
) -> list[Part]:
    """The parts that run the engine, in a process of their own: a crash costs one variant."""
    report = folder / f"{variant}.json"
    job = {
        "module": machine.module,
        "engine": str(engine),
        "model": str(folder / f"{variant}.onnx"),
        "samples": str(folder / "samples.npz"),
        "profile": result.profile,
        "report": str(report) if report.is_file() else None,
        "variant": variant,
        "found": str(work / "found.json"),
    }
    (work / "job.json").write_text(json.dumps(job), "utf-8")
    found = Path(job["found"] or "")
    found.unlink(missing_ok=True)
    command = [sys.executable, str(Path(gate_run.__file__)), str(work / "job.json")]
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
        ending = "" if done.returncode == 0 else _ending(done)
    except subprocess.TimeoutExpired:
        ending = f"took longer than {LIMIT_S:g} s"
    told = json.loads(found.read_text("utf-8")) if found.is_file() else {}
    parts = []
    for name in PARTS[1:]:
        row = told.get(name)
        if row is not None:
            parts.append(Part(folder.name, variant, name, **row))
        elif ending:
            parts.append(Part(folder.name, variant, name, "failed", ending))
            ending = ""  # it ended here: what comes after was not tried
        else:
            parts.append(Part(folder.name, variant, name, "skipped", "the engine did not get here"))
    return parts


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"ended with status {done.returncode}: {lines[-1] if lines else 'no last words'}"


def write(parts: Sequence[Part], machine: Machine, path: Path) -> None:
    """The record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "gpu": machine.gpu,
        "compute_capability": machine.capability,
        "builder": machine.module,
        "settings": SETTINGS,
        "parts": [asdict(part) for part in parts],
    }
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    new.replace(path)


def show(parts: Iterable[Part]) -> None:
    for part in parts:
        figures = ", ".join(f"{name} {_short(value)}" for name, value in part.figures.items())
        text = " ".join(filter(None, (part.reason, figures)))
        print(f"{part.status:8} {part.model}/{part.variant} {part.part}: {text}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(
    arguments: Sequence[str] | None = None, machine: Callable[[], Machine] = find_machine
) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, help="the folder of models")
    parser.add_argument("--wheels", type=Path, help="a folder with TensorRT-RTX's wheel files")
    parser.add_argument("--json", type=Path, help="write the record there, GPU or not")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "gpu", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu-gate-") as name:
        work = Path(name)
        try:
            if options.wheels is not None:
                unpack_wheels(options.wheels, work / "packages")
            here = machine()
            parts = gate(options.models.absolute(), here, work)
        except GraphoptError as error:
            print(f"gpu_gate.py: {error}", file=sys.stderr)
            return 2
    show(parts)
    places = [options.json] if options.json is not None else []
    if here.gpu is not None:
        slug = re.sub(r"[^a-z0-9]+", "-", here.gpu.lower()).strip("-")
        places.append(options.docs / f"{slug}-{datetime.date.today().isoformat()}.json")
    for place in places:
        write(parts, here, place)
        print(f"wrote {place}")
    return int(any(part.status == "failed" for part in parts))


if __name__ == "__main__":
    sys.exit(main())
