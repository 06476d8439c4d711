"""The engine builders, and which of them serves a target."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graphopt.emit.tensorrt.bundle import Bundle
from graphopt.emit.tensorrt.options import ALL_OPTIONS
from graphopt.emit.tensorrt.process import build_in_child
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult, EngineBackend
from graphopt.errors import GraphoptError, did_you_mean
from graphopt.progress import Progress
from graphopt.targets import Target, get_target, target_names


@dataclass(frozen=True)
class RtxAheadOfTime:
    """TensorRT-RTX, which compiles for a named GPU on any x86-64 CPU, without a GPU."""

    name: str = "rtx-aot"
    module: str = "tensorrt_rtx"
    # M: it takes the others, and either fails to build or builds the same engine.
    options: frozenset[str] = frozenset({"workspace_bytes"})
    makes_folder: bool = False

    def available(self) -> str | None:
        machine = platform.machine()
        if machine not in ("x86_64", "AMD64"):
            return (
                f"TensorRT-RTX is made for x86-64 machines only, and this one is {machine}; "
                "build on an x86-64 machine, it needs no GPU"
            )
        if importlib.util.find_spec(self.module) is None:
            return "TensorRT-RTX is not installed; pip install 'graphopt[trt]'"
        return None

    def build(self, request: BuildRequest, progress: Progress) -> BuildResult:
        return build_in_child(self.module, request, progress)


@dataclass(frozen=True)
class FullTensorRT:
    """TensorRT 10.3 or newer, which builds for the GPU of the machine that it runs on."""

    name: str = "tensorrt"
    module: str = "tensorrt"
    options: frozenset[str] = ALL_OPTIONS
    makes_folder: bool = False

    def available(self) -> str | None:
        if importlib.util.find_spec(self.module) is None:
            return (
                "TensorRT is not installed; on a Jetson it comes with JetPack, "
                "elsewhere pip install 'graphopt[tensorrt]' on the machine with the GPU"
            )
        return None

    def build(self, request: BuildRequest, progress: Progress) -> BuildResult:
        return build_in_child(self.module, request, progress)


BACKENDS: Mapping[str, EngineBackend] = MappingProxyType(
    {backend.name: backend for backend in (RtxAheadOfTime(), FullTensorRT(), Bundle())}
)


def choose_backend(target: Target, name: str | None) -> EngineBackend:
    """The backend called `name`, or else the first one for `target` that can build here.

    Raises:
        GraphoptError: if there is none, with the reason.
    """
    if name is not None:
        return _named(target, name)
    if not target.backends:
        raise GraphoptError(
            f"there are no engines for target '{target.name}'",
            fix=f"choose one of {', '.join(_targets_of())}",
        )
    reasons = []
    for candidate in target.backends:
        reason = BACKENDS[candidate].available()
        if reason is None:
            return BACKENDS[candidate]
        reasons.append(reason)
    raise GraphoptError(reasons[0], fix=_stand_in(target))


def _named(target: Target, name: str) -> EngineBackend:
    if name not in BACKENDS:
        raise GraphoptError(f"there is no backend '{name}'", fix=did_you_mean(name, [*BACKENDS]))
    if name not in _backends_of(target):
        raise GraphoptError(
            f"backend '{name}' cannot build for target '{target.name}'",
            fix=_stand_in(target) or f"it builds for {', '.join(_targets_of(name))}",
        )
    reason = BACKENDS[name].available()
    if reason is not None:
        raise GraphoptError(reason)
    return BACKENDS[name]


def _targets_of(backend: str | None = None) -> list[str]:
    targets = map(get_target, target_names())
    return [t.name for t in targets if t.backends and backend in (None, *_backends_of(t))]


def _backends_of(target: Target) -> tuple[str, ...]:
    """Whatever TensorRT serves can be served by a bundle, which is only made when asked for."""
    return (*target.backends, Bundle.name) if target.family == "tensorrt" else target.backends


def _stand_in(target: Target) -> str | None:
    if target.stand_in is None:
        return None
    return (
        f"engines for {target.name} are built on the device: make a folder for it with --backend "
        "bundle; to see what the model compiles to, "
        f"build here for its stand-in, {target.stand_in}"
    )
