"""The record of a run in the model's own metadata, from which the run can be repeated."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import onnx_ir as ir

from graphopt.pipeline.text import Pipeline

PREFIX = "graphopt."


def write_record(
    model: ir.Model,
    pipeline: Pipeline,
    *,
    source_sha256: str,
    target: str,
    calibration: str | None,
) -> None:
    """Writes into `model.metadata_props` what made it. There is no time and no path of its own."""
    model.metadata_props[f"{PREFIX}pipeline"] = str(pipeline)
    model.metadata_props[f"{PREFIX}target"] = target
    model.metadata_props[f"{PREFIX}source_sha256"] = source_sha256
    model.metadata_props[f"{PREFIX}versions"] = versions()
    if calibration is not None:
        # A file name may hold bytes that are no text, which protobuf refuses.
        text = calibration.encode("utf-8", "replace").decode("utf-8")
        model.metadata_props[f"{PREFIX}calibration"] = text
    else:
        model.metadata_props.pop(f"{PREFIX}calibration", None)


def read_record(model: ir.Model) -> dict[str, str]:
    """The record in `model`, without the prefix; empty if graphopt did not make it."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in model.metadata_props.items()
        if key.startswith(PREFIX)
    }


@cache
def versions() -> str:
    """The versions that decide what comes out."""
    packages = ("graphopt", "numpy", "onnx", "onnx-ir", "onnxruntime")
    return " ".join(f"{package}={version(package)}" for package in packages)
