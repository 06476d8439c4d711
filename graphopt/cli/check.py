"""graphopt check"""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import gpu_option, json_option, shapes_option, timeout_option


@click.command(short_help="Say whether a model makes an engine, and if not, why.")
@click.argument("source", metavar="MODEL", type=click.Path(path_type=Path))
@gpu_option
@shapes_option
@timeout_option
@json_option
def check(
    source: Path, target: str, shapes: str | None, timeout: float, json_path: Path | None
) -> None:
    """Say whether MODEL makes an engine for a target, and all that stands in the way.

    It is checked against tables, then parsed and built where TensorRT-RTX or TensorRT is
    installed; the engine is thrown away. Exit status 1: there is no engine.

    \b
    graphopt check model.onnx --target jetson-orin
    """
    from graphopt.cli.paths import check_outputs
    from graphopt.cli.progress import Bars
    from graphopt.emit.tensorrt import parse_shapes
    from graphopt.emit.tensorrt.check import check_for
    from graphopt.ir import load
    from graphopt.report.engine import print_check
    from graphopt.report.json import write_json
    from graphopt.targets import get_target

    chosen = get_target(target)
    check_outputs({"--json": json_path}, {"MODEL": source})
    model = load(source)
    report = check_for(
        model,
        source,
        chosen,
        shapes=None if shapes is None else parse_shapes(shapes),
        timeout_s=timeout,
        progress=Bars(),
    )
    if json_path is not None:
        write_json(report, json_path)
    print_check(report)
    if not report.passed:
        raise click.exceptions.Exit(1)
