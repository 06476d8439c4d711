"""From an ONNX file to an engine file and a report about it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.emit.tensorrt.backends import choose_backend
from graphopt.emit.tensorrt.findings import made_for_another, misread
from graphopt.emit.tensorrt.folder import replacing_folder
from graphopt.emit.tensorrt.kernel_counts import activation_bytes, match_nodes, weight_bytes
from graphopt.emit.tensorrt.kernel_table import Kernel, KernelTableError, parse_kernel_table
from graphopt.emit.tensorrt.options import (
    BuilderOptions,
    require_dla,
    require_dla_precision,
    require_dla_shapes,
    require_options,
)
from graphopt.emit.tensorrt.report import EngineReport
from graphopt.emit.tensorrt.request import BuildRequest, BuildResult, EngineBackend
from graphopt.emit.tensorrt.shapes import ShapeRange, input_specs, parse_shapes, profile_of
from graphopt.emit.tensorrt.unfused import find_unfused
from graphopt.errors import GraphoptError
from graphopt.progress import Progress, Quiet
from graphopt.targets import Target, get_target

if TYPE_CHECKING:
    import onnx_ir as ir

DEFAULT_TIMEOUT_S = 1800.0


def build_engine(
    model_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    target: str | Target,
    shapes: str | Mapping[str, ShapeRange] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    options: BuilderOptions | None = None,
    samples: str | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> EngineReport:
    """Builds an engine for `target` from an ONNX file, in a process of its own.

    What is built is moved into place when it is whole; on any failure what was there stays.

    Args:
        target: what it is for, as "sm86"; see `graphopt targets`.
        shapes: the least, optimal and greatest shape of dynamic inputs, by name or as the text of
            `--shapes`; each must be given, or share the names of its open sizes with one that is.
            See `batch_shapes`.
        timeout_s: seconds until the build is given up.
        options: what else is asked of the builder.
        samples: where a bundle's reference inputs come from, as `open_samples` reads it.
        backend: "rtx-aot", "tensorrt", or "bundle" for a folder that builds on the device itself;
            the first of the target's that can build here otherwise.
        progress: shows how far the build is.

    Raises:
        GraphoptError: if the model, the request or the place to write is wrong, if nothing here can
            build for the target, if the builder refuses the model, crashes or takes too long.
    """
    options = options or BuilderOptions()
    target = get_target(target)
    shapes = parse_shapes(shapes) if isinstance(shapes, str) else shapes
    if not isinstance(model_path, (str, os.PathLike)):
        raise GraphoptError(
            f"an engine is built from a file, not from a {type(model_path).__name__}",
            fix="write one with graphopt.save(model, PATH)",
        )
    if not timeout_s > 0 or math.isinf(timeout_s):
        raise GraphoptError(f"a time limit of {timeout_s:g} s is none", fix="give positive seconds")
    chosen = choose_backend(target, backend)
    require_options(options, chosen.options, chosen.name)
    require_dla(options, target)
    if samples is not None and not chosen.makes_folder:
        raise GraphoptError(
            f"backend '{chosen.name}' takes no samples", fix="they are for backend 'bundle'"
        )
    model = Path(model_path).absolute()
    if not model.is_file():
        raise GraphoptError(
            "is not a file" if model.exists() else "no such file", where=str(model_path)
        )
    from graphopt.emit.tensorrt.bundle.needs import precisions_of
    from graphopt.ir import infer_shapes, load

    loaded = load(model)
    # Before a builder is started:
    require_dla_shapes(options, profile_of(input_specs(loaded), shapes or {}))
    require_dla_precision(options, precisions_of(loaded))
    with _output(chosen, Path(output_path), model) as place:
        request = BuildRequest(
            model=str(model),
            engine=str(place),
            target=target.name,
            sm=target.sm,
            opsets=target.opsets,
            shapes=dict(shapes or {}),
            timeout_s=timeout_s,
            options=_absolute(options),
            samples=samples,
        )
        try:
            result = chosen.build(request, progress or Quiet())
        except GraphoptError as error:
            for finding in made_for_another(loaded, target):
                fix = f"{finding.reason}: {finding.fix}"
                raise GraphoptError(error.what, where=error.where, fix=fix) from error
            raise
        infer_shapes(loaded)
        return _report(Path(output_path), loaded, target, chosen.name, result)


@contextmanager
def _output(backend: EngineBackend, given: Path, model: Path) -> Iterator[Path]:
    """Where to write what is moved to `given` if the body succeeds."""
    # Here, for it imports onnx: the package costs nothing until something is built.
    from graphopt.ir.saving import writable_path, writing

    if backend.makes_folder:
        with replacing_folder(given.absolute(), model) as place:
            yield place
        return
    output = writable_path(given.absolute())
    if output.exists() and output.samefile(model):
        raise GraphoptError("is the model itself", where=str(given), fix="name another file")
    with writing(output) as folder:
        yield folder / output.name


def _absolute(options: BuilderOptions) -> BuilderOptions:
    """`options` as the child process finds them, which works in another folder."""
    if options.timing_cache is None:
        return options
    return replace(options, timing_cache=str(Path(options.timing_cache).absolute()))


def _report(
    path: Path, model: ir.Model, target: Target, backend: str, result: BuildResult
) -> EngineReport:
    kernels, note = _kernels(result)
    report = EngineReport(
        path=path,
        target=target.name,
        backend=backend,
        builder=result.builder,
        engine_bytes=result.engine_bytes,
        build_seconds=result.build_seconds,
        profile=result.profile,
        kernels=kernels,
        kernel_table_note=note,
        compute_nodes=None,
        weight_bytes=None,
        warnings=result.warnings,
        misread=tuple(
            finding.text for finding in (*misread(model), *made_for_another(model, target))
        ),
    )
    if kernels is None:
        return report
    macs = _macs(model, result.profile)
    nodes = tuple(
        replace(node, macs=macs.get(node.name, macs.get(node.name.removeprefix("node_of_"))))
        for node in match_nodes(result.nodes, kernels)
    )
    return replace(
        report,
        compute_nodes=nodes,
        weight_bytes=weight_bytes(kernels),
        activation_bytes=activation_bytes(kernels),
        unfused=find_unfused(model, nodes, target),
    )


def _macs(model: ir.Model, profile: Mapping[str, ShapeRange]) -> dict[str, int | None]:
    """The multiply-accumulates of each node in one run with the optimal shapes."""
    import onnx_ir as ir

    from graphopt.ir import forget_shapes, infer_shapes, measure

    fixed = model.clone()
    for value in fixed.graph.inputs:
        name = str(value.name)
        if name in profile:
            value.shape = ir.Shape(profile[name][1])
    forget_shapes(fixed.graph)
    infer_shapes(fixed)
    return {row.name: row.macs for row in measure(fixed).per_node}


def _kernels(result: BuildResult) -> tuple[tuple[Kernel, ...] | None, str | None]:
    if result.note is not None:
        return None, result.note
    try:
        return parse_kernel_table(result.tables), None
    except KernelTableError as error:
        return None, f"{error} ({result.builder}); the engine itself is complete"
