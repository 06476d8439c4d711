"""Writing a bundle."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt.emit.tensorrt.bundle.needs import (
    TensorRTRange,
    doubts,
    precisions_of,
    require_precisions,
    tensorrt_range,
)
from graphopt.emit.tensorrt.bundle.reference import Reference, write_reference
from graphopt.emit.tensorrt.folder import FORMAT, METADATA_FILE
from graphopt.emit.tensorrt.options import BuilderOptions, require_dla_shapes
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult
from graphopt.emit.tensorrt.shapes import Shape, ShapeRange, input_specs, profile_of
from graphopt.errors import GraphoptError
from graphopt.ir import default_opset, load, main_inputs, save
from graphopt.ir.external import initializer_tensors, is_external
from graphopt.pipeline.record import read_record, versions
from graphopt.progress import Progress
from graphopt.targets import get_target

MODEL_FILE, PROFILES_FILE = "model.onnx", "profiles.json"
NOTE = "the engine is built on the device: copy the folder there and run ./build.sh"
_VERSION = 1
# What an engine's outputs must keep of the reference, by the least precise type in the model.
# TensorRT computes fp32 as TF32, whose 10 bits of fraction are those of fp16.
_SQNR_DB = {"fp32": 40.0, "fp16": 40.0, "bf16": 25.0, "int8": 20.0, "fp8": 20.0}
_LEAST_SQNR_DB = 15.0
_SCRIPT_MODE = 0o755


def write_bundle(request: BuildRequest, progress: Progress) -> BuildResult:
    """Writes the bundle for `request` into the empty folder `request.engine`.

    Raises:
        GraphoptError: if the model, the shapes, the samples or the options are at fault.
    """
    started = time.perf_counter()
    bundle = Path(request.engine)
    model = load(request.model)
    if not len(model.graph):
        raise GraphoptError(
            "the graph has no nodes, so there is nothing to build", where=request.model
        )
    request.require_opset(default_opset(model))
    profile = profile_of(input_specs(model), request.shapes)
    require_dla_shapes(request.options, profile)
    target = get_target(request.target)
    precisions = precisions_of(model)
    require_precisions(precisions, target)
    versions_needed = tensorrt_range(model, target)
    _write_model(model, Path(request.model), bundle)
    _write_build_script(bundle, profile, request.options, precisions, versions_needed)
    shutil.copyfile(_resource("verify.py"), bundle / "verify.py")
    (bundle / "verify.py").chmod(_SCRIPT_MODE)
    _write_json(bundle / PROFILES_FILE, {"profiles": [_named_shapes(profile)]})
    reference = write_reference(model, request.samples, profile, bundle, progress)
    metadata = _metadata(model, request, versions_needed, precisions, reference, bundle)
    _write_json(bundle / METADATA_FILE, metadata)
    warnings = [*reference.notes, *doubts(model, versions_needed)]
    if "int8" in precisions and "int8" not in target.precisions:
        warnings.append(f"int8 may be slower than fp16 on {target.name}{target.because('int8')}")
    if reference.is_random:
        warnings.append("the reference inputs are noise; give real ones with --data")
    return BuildResult(
        builder=f"graphopt for {versions_needed}",
        build_seconds=time.perf_counter() - started,
        engine_bytes=sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
        profile=profile,
        warnings=tuple(warnings),
        note=NOTE,
    )


def _write_model(model: ir.Model, source: Path, bundle: Path) -> None:
    """The same bytes where the model is one file; else it and its data under the bundle's names."""
    if any(map(is_external, initializer_tensors(model))):
        save(model, bundle / MODEL_FILE, external_data=True)
    else:
        shutil.copyfile(source, bundle / MODEL_FILE)


def _write_build_script(
    bundle: Path,
    profile: Mapping[str, ShapeRange],
    options: BuilderOptions,
    precisions: tuple[str, ...],
    needs: TensorRTRange,
) -> None:
    workspace = options.workspace_bytes
    more = {
        "refit": options.refit,
        "stripWeights": options.strip_weights,
        "versionCompatible": options.version_compatible,
    }
    files = sorted(path for path in bundle.iterdir() if path.name.startswith(MODEL_FILE))
    settings = {
        "checksums": "\n".join(f"{_sha256(path)}  {path.name}" for path in files),
        "least": needs.least[0] * 100 + needs.least[1],
        "greatest": needs.greatest[0] * 100 + needs.greatest[1],
        "range": needs,
        "fp16": int("fp16" in precisions),
        "int8": int("int8" in precisions),
        "min_shapes": _trtexec_shapes(profile, 0),
        "opt_shapes": _trtexec_shapes(profile, 1),
        "max_shapes": _trtexec_shapes(profile, 2),
        "workspace_mib": "" if workspace is None else -(-workspace // (1 << 20)),
        "sparsity": int(options.sparsity),
        "dla_core": "" if options.dla_core is None else options.dla_core,
        "gpu_fallback": int(options.gpu_fallback),
        "more": " ".join(name for name, wanted in more.items() if wanted),
    }
    lines = "\n".join(f"{name}={shlex.quote(str(value))}" for name, value in settings.items())
    text = _resource("build.sh").read_text("utf-8").replace("@SETTINGS@", lines)
    path = bundle / "build.sh"
    path.write_text(text, "utf-8")
    path.chmod(_SCRIPT_MODE)


def _trtexec_shapes(profile: Mapping[str, ShapeRange], which: int) -> str:
    """`x:1x3,'y:0':1`: trtexec takes a name in single quotes where it holds its separators."""
    items = []
    for name, shapes in profile.items():
        if "'" in name or "\n" in name:
            raise GraphoptError(
                "trtexec cannot be told the shape of an input with this name",
                where=f"input {name!r}",
                fix="rename it",
            )
        quoted = f"'{name}'" if ":" in name or "," in name else name
        items.append(f"{quoted}:{'x'.join(map(str, shapes[which]))}")
    return ",".join(items)


def _metadata(
    model: ir.Model,
    request: BuildRequest,
    needs: TensorRTRange,
    precisions: tuple[str, ...],
    reference: Reference,
    bundle: Path,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": _VERSION,
        "target": {"name": request.target, "sm": request.sm},
        "tensorrt": {"least": list(needs.least), "greatest": list(needs.greatest)},
        "precisions": list(precisions),
        "inputs": [_port(value) for value in main_inputs(model)],
        "outputs": [_port(value) for value in model.graph.outputs],
        "options": asdict(request.options),
        "made_by": versions(),
        "pipeline": read_record(model),
        "reference": {
            "samples": reference.samples,
            "random": reference.is_random,
            "least_sqnr_db": min(
                (_SQNR_DB.get(name, _LEAST_SQNR_DB) for name in precisions), default=40.0
            ),
            "cases": list(reference.cases),
        },
        "files": {
            path.relative_to(bundle).as_posix(): {
                "sha256": _sha256(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(bundle.rglob("*"))
            if path.is_file()
        },
    }


def _port(value: ir.Value) -> dict[str, Any]:
    shape = None
    if value.shape is not None:
        shape = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return {
        "name": value.name,
        "dtype": None if value.dtype is None else str(value.dtype.numpy()),
        "shape": shape,
    }


def _named_shapes(profile: Mapping[str, ShapeRange]) -> dict[str, dict[str, Shape]]:
    names = ("min", "opt", "max")
    return {name: dict(zip(names, shapes, strict=True)) for name, shapes in profile.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _resource(name: str) -> Path:
    return Path(str(resources.files(__package__) / name))
