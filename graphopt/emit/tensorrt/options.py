"""What a builder may be asked for beside the engine itself, and which names of TensorRT ask for it.

Names are looked up in the module at hand: a version that lacks one refuses the option in one line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from graphopt.emit.tensorrt.shapes import ShapeRange
from graphopt.errors import GraphoptError
from graphopt.targets import Target, get_target, target_names

# R: of a deep learning accelerator ("DLA Supported Layers and Restrictions").
DLA_MAX_BATCH = 4096
DLA_MAX_SIZE = 8192
DLA_PRECISIONS = frozenset({"fp16", "int8"})
# R: "DLA is not supported in TensorRT 11.0 or 11.1".
_WITHOUT_DLA = ("11.0.", "11.1.")

_BUILDER_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "sparsity": "SPARSE_WEIGHTS",
        "gpu_fallback": "GPU_FALLBACK",
        "refit": "REFIT",
        "strip_weights": "STRIP_PLAN",
        "version_compatible": "VERSION_COMPATIBLE",
    }
)


@dataclass(frozen=True)
class BuilderOptions:
    """Options of a build. Precision is not among them: it is in the graph.

    Attributes:
        workspace_bytes: GPU memory that a kernel may use for itself; None for the default.
        timing_cache: a file of measured kernels, read if it is there, written after the build.
        sparsity: whether kernels for 2:4 sparse weights may be used.
        dla_core: the deep learning accelerator to build for; None for the GPU.
        gpu_fallback: whether the GPU takes what the accelerator cannot.
        refit: whether the weights can be exchanged later.
        strip_weights: whether the engine leaves out the weights that a refit brings back.
        version_compatible: whether later versions of TensorRT can run the engine.
    """

    workspace_bytes: int | None = None
    timing_cache: str | None = None
    sparsity: bool = False
    dla_core: int | None = None
    gpu_fallback: bool = False
    refit: bool = False
    strip_weights: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.gpu_fallback and self.dla_core is None:
            raise GraphoptError(
                "a GPU fallback needs an accelerator to fall back from", fix="give --dla-core"
            )
        if self.dla_core is not None and self.dla_core < 0:
            raise GraphoptError(f"there is no DLA core {self.dla_core}", fix="count them from 0")
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise GraphoptError("a workspace of no bytes is none", fix="give a positive size")

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that are set."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) not in (None, False))


ALL_OPTIONS = frozenset(f.name for f in fields(BuilderOptions))


def option_text(name: str) -> str:
    """What the user writes for the option called `name`."""
    return "--workspace" if name == "workspace_bytes" else "--" + name.replace("_", "-")


def require_options(options: BuilderOptions, known: Collection[str], backend: str) -> None:
    """Raises GraphoptError if an option is set that `backend` would take without any effect."""
    ignored = [option_text(name) for name in options.given if name not in known]
    if ignored:
        raise GraphoptError(
            f"{', '.join(ignored)} does nothing with backend '{backend}'",
            fix="leave it out",
        )


def require_dla(options: BuilderOptions, target: Target) -> None:
    """Raises GraphoptError if an accelerator is asked for that `target` lacks."""
    if options.dla_core is None or target.sm is None or options.dla_core < target.dla_cores:
        return
    if target.dla_cores == 0:
        have = [name for name in target_names() if get_target(name).dla_cores]
        raise GraphoptError(
            f"{target.name} has no DLA", fix=f"leave out --dla-core; these have: {', '.join(have)}"
        )
    raise GraphoptError(
        f"there is no DLA core {options.dla_core} in {target.name}",
        fix=f"choose one below {target.dla_cores}",
    )


def require_dla_shapes(options: BuilderOptions, profile: Mapping[str, ShapeRange]) -> None:
    """Raises GraphoptError if an accelerator is asked for that cannot take what is in `profile`."""
    if options.dla_core is None:
        return
    for name, (least, best, greatest) in profile.items():
        if least != greatest:
            best_text = "x".join(map(str, best))
            raise GraphoptError(
                f"a DLA takes one shape, and input '{name}' has a range of them",
                fix=f'give one: --shapes "{name}:{best_text}"',
            )
        if best and best[0] > DLA_MAX_BATCH:
            raise GraphoptError(f"a DLA takes a batch of at most {DLA_MAX_BATCH}, not {best[0]}")
        if any(size > DLA_MAX_SIZE for size in best[1:]):
            raise GraphoptError(
                f"a DLA takes dimensions of at most {DLA_MAX_SIZE}, not {max(best[1:])}"
            )


def require_dla_precision(options: BuilderOptions, precisions: Iterable[str]) -> None:
    """Raises GraphoptError if an accelerator is asked for that computes in none of `precisions`."""
    if options.dla_core is not None and DLA_PRECISIONS.isdisjoint(precisions):
        raise GraphoptError(
            f"a DLA computes in fp16 and int8, and the model holds {', '.join(precisions)}",
            fix="cast it with the pass cast-precision",
        )


def apply_options(trt: Any, config: Any, options: BuilderOptions, product: str) -> None:
    """Sets all but the timing cache on a builder's `config`.

    Args:
        trt: the module `tensorrt`.
        product: its name and version, for messages.
    """
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    for name, flag in _BUILDER_FLAGS.items():
        if getattr(options, name):
            config.set_flag(_member(trt, "BuilderFlag", flag, option_text(name), product))
    if options.dla_core is not None:
        if trt.__version__.startswith(_WITHOUT_DLA):
            raise GraphoptError(f"{product} supports no DLA", fix="leave out --dla-core")
        config.default_device_type = _member(trt, "DeviceType", "DLA", "--dla-core", product)
        config.DLA_core = options.dla_core


def _member(trt: Any, enum: str, name: str, option: str, product: str) -> Any:
    found = getattr(getattr(trt, enum, None), name, None)
    if found is None:
        raise GraphoptError(f"{product} has no {enum}.{name}", fix=f"leave out {option}")
    return found


def use_timing_cache(config: Any, path: Path, product: str) -> None:
    """Starts from the kernels measured before, as far as they are for this version and GPU."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise GraphoptError(f"cannot be read ({error.strerror})", where=str(path)) from None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise GraphoptError(
            f"is not a timing cache of {product} on this GPU",
            where=str(path),
            fix="delete it or name another file",
        )


def timing_cache_content(config: Any) -> bytes:
    """The timing cache after a build; to be called while the builder lives, or it is a segfault."""
    with memoryview(config.get_timing_cache().serialize()) as content:
        return bytes(content)
