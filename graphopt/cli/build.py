"""graphopt build"""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from graphopt.cli.options import (
    gpu_option,
    json_option,
    output_option,
    shapes_option,
    timeout_option,
)


@click.command(short_help="Build a TensorRT engine; no GPU is needed.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@output_option("The engine file to write; for a bundle its folder.")
@gpu_option
@shapes_option
@click.option(
    "--backend",
    help="rtx-aot, tensorrt, or bundle: a folder that builds on the device itself "
    "(default: the first that can build here).",
)
@click.option(
    "--data", metavar="SRC", help="Real samples, for the reference of a bundle; as --calib's."
)
@timeout_option
@click.option(
    "--workspace",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="GPU memory that a kernel may use for itself.",
)
@click.option(
    "--timing-cache",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measured kernels: read if FILE is there, written after the build.",
)
@click.option("--sparsity", is_flag=True, help="Allow kernels for 2:4 sparse weights.")
@click.option("--dla-core", type=int, metavar="N", help="Build for this DLA core of a Jetson.")
@click.option("--gpu-fallback", is_flag=True, help="Let the GPU take what the DLA cannot.")
@click.option("--refit", is_flag=True, help="Let weights be exchanged later.")
@click.option("--strip-weights", is_flag=True, help="Leave out the weights, for a later refit.")
@click.option("--version-compatible", is_flag=True, help="Let later TensorRT versions run it.")
@click.option("--kernels", is_flag=True, help="List every compiled kernel.")
@json_option
def build(
    source: Path,
    output: Path,
    target: str,
    shapes: str | None,
    backend: str | None,
    data: str | None,
    timeout: float,
    workspace: int | None,
    timing_cache: Path | None,
    sparsity: bool,
    dla_core: int | None,
    gpu_fallback: bool,
    refit: bool,
    strip_weights: bool,
    version_compatible: bool,
    kernels: bool,
    json_path: Path | None,
) -> None:
    """Build a TensorRT engine from the model IN; no GPU is needed for TensorRT-RTX.

    \b
    graphopt build int8.onnx -o int8.engine --target sm86
    graphopt build int8.onnx -o folder --target jetson-orin --backend bundle --data calib.npz
    """
    from graphopt.cli.paths import check_outputs
    from graphopt.cli.progress import Bars
    from graphopt.emit.tensorrt import BuilderOptions, build_engine, parse_shapes
    from graphopt.report.engine import print_engine, print_kernels
    from graphopt.report.json import write_json
    from graphopt.targets import get_target

    outputs: dict[str, Path | None] = {"--json": json_path, "--timing-cache": timing_cache}
    if backend == "bundle":
        _refuse("kernels", "timeout")  # nothing is built here
    else:  # a bundle is a folder, which is checked where it is written
        outputs["-o"] = output
    check_outputs(outputs, {"IN": source, "--data": data})
    chosen = get_target(target)
    report = build_engine(
        source,
        output,
        target=chosen,
        shapes=None if shapes is None else parse_shapes(shapes),
        timeout_s=timeout,
        options=BuilderOptions(
            workspace_bytes=None if workspace is None else workspace << 20,
            timing_cache=None if timing_cache is None else str(timing_cache),
            sparsity=sparsity,
            dla_core=dla_core,
            gpu_fallback=gpu_fallback,
            refit=refit,
            strip_weights=strip_weights,
            version_compatible=version_compatible,
        ),
        samples=data,
        backend=backend,
        progress=Bars(),
    )
    if json_path is not None:
        write_json(report, json_path)
    print_engine(report)
    if kernels and report.kernels is not None:
        print_kernels(report)
    if report.backend == "bundle":
        for warning in report.warnings:
            click.echo(f"warning: {warning}", err=True)


def _refuse(*names: str) -> None:
    """Raises GraphoptError if the user has given an option of `names`, which a bundle ignores."""
    from graphopt.errors import GraphoptError

    source = click.get_current_context().get_parameter_source
    given = [f"--{name}" for name in names if source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise GraphoptError(
            f"{', '.join(given)} does nothing with backend 'bundle'", fix="leave it out"
        )
