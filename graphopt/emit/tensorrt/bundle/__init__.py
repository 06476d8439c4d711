"""A folder to copy to a device, which builds its own engine: engines do not travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.emit.tensorrt.options import ALL_OPTIONS

if TYPE_CHECKING:
    from graphopt.emit.tensorrt.request import BuildRequest, BuildResult
    from graphopt.progress import Progress


@dataclass(frozen=True)
class Bundle:
    """The model, a script that builds it with the device's own trtexec, and a proof of the result.

    model.onnx (and model.onnx.data)    the model
    build.sh                            builds model.engine on the device, for TensorRT 8.5 to 11
    verify.py                           runs the engine on the reference, and compares
    reference/                          inputs, and the outputs that are expected of them
    profiles.json                       the shapes that the engine is built for
    metadata.json                       what all this is, with the hash of every file
    """

    name: str = "bundle"
    # The timing cache is the device's own.
    options: frozenset[str] = ALL_OPTIONS - {"timing_cache"}
    makes_folder: bool = True

    def available(self) -> str | None:
        return None

    def build(self, request: BuildRequest, progress: Progress) -> BuildResult:
        from graphopt.emit.tensorrt.bundle.writer import write_bundle

        return write_bundle(request, progress)
