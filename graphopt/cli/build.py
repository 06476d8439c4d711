"""graphopt build"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "output", metavar="ENGINE", required=True, type=click.Path(path_type=Path)
)
@click.option("--target", required=True, help="The GPU that it is for, as sm86.")
@click.option(
    "--shapes",
    metavar="TEXT",
    help="Input shapes, minimum:optimum:maximum: image=1x3x224x224:8x3x224x224:32x3x224x224,...",
)
@click.option("--backend", help="What builds it (default: the first that can).")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=1800.0,
    show_default=True,
    metavar="S",
    help="Seconds until the build is given up.",
)
@click.option(
    "--workspace",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="GPU memory that a kernel may use for itself.",
)
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(path_type=Path), help="Write a report."
)
def build(
    source: Path,
    output: Path,
    target: str,
    shapes: str | None,
    backend: str | None,
    timeout: float,
    workspace: int | None,
    json_path: Path | None,
) -> None:
    """Build a TensorRT engine from the model IN; no GPU is needed for TensorRT-RTX.

    \b
    graphopt build int8.onnx -o int8.engine --target sm86
    """
    from graphopt.cli.paths import check_outputs
    from graphopt.emit.tensorrt import build_engine, parse_shapes
    from graphopt.ir import load
    from graphopt.report.json import write_json
    from graphopt.report.text import print_engine
    from graphopt.targets import get_target

    check_outputs({"-o": output, "--json": json_path}, {"IN": source})
    model = load(source)
    report = build_engine(
        source,
        output,
        target=get_target(target),
        shapes=parse_shapes(shapes, model) if shapes else None,
        timeout_s=timeout,
        workspace_bytes=None if workspace is None else workspace << 20,
        backend=backend,
    )
    if json_path is not None:
        write_json(report, json_path)
    print_engine(report)
