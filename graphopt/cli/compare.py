"""graphopt compare"""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import json_option
from graphopt.cli.types import not_negative


@click.command(short_help="Compare the outputs of two models on the same samples.")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="SRC", help="Samples; see 'optimize --calib'.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use the first N samples (default: all).",
)
@click.option(
    "--tolerance",
    type=not_negative,
    metavar="X",
    help="Exit with 1 if an output differs by more, relative to its peak.",
)
@json_option
def compare(
    first: Path,
    second: Path,
    data: str,
    samples: int | None,
    tolerance: float | None,
    json_path: Path | None,
) -> None:
    """Run the models A and B on the same samples and compare their outputs.

    A is the reference. ONNX Runtime's own optimizations are off.
    """
    from graphopt.cli.paths import check_outputs
    from graphopt.cli.progress import Bars
    from graphopt.jobs.comparison import compare_models
    from graphopt.report.json import write_json
    from graphopt.report.text import print_comparison

    check_outputs({"--json": json_path}, {"A": first, "B": second, "--data": data})
    comparison = compare_models(
        first, second, data, limit=samples, tolerance=tolerance, progress=Bars()
    )
    if json_path is not None:
        write_json(comparison, json_path)
    print_comparison(comparison)
    if not comparison.met:
        raise click.exceptions.Exit(1)
