"""graphopt groups"""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import json_option, target_option


@click.command(short_help="Show which channels can be cut together.")
@click.argument("source", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "--score", metavar="NAME", help="How channels are scored; see 'passes' (default: l1)."
)
@click.option(
    "--calib",
    metavar="SRC",
    help="Samples, for scores that need them and for free axes; see 'optimize --calib'.",
)
@click.option(
    "--passes",
    metavar="TEXT",
    help="A pipeline that cuts channels, with its own options (default: prune-channels).",
)
@target_option
@click.option("--all", "every", is_flag=True, help="Show all groups, reasons and names.")
@json_option
def groups(
    source: Path,
    score: str | None,
    calib: str | None,
    passes: str | None,
    target: str,
    every: bool,
    json_path: Path | None,
) -> None:
    """Show which channels of MODEL can be cut together, and why others stay.

    Nothing is cut. A group is listed with the layers that make and read its channels, the share of
    the model's multiply-accumulates and parameters that hang on them, and the spread of its scores.

    \b
    graphopt groups model.onnx
    graphopt groups model.onnx --passes "simplify,prune-channels{heads=true,score=l1}" --all
    """
    from graphopt.cli.paths import check_outputs
    from graphopt.cli.progress import Bars
    from graphopt.errors import GraphoptError
    from graphopt.jobs.groups import DEFAULT_PASSES, find_groups
    from graphopt.report.groups import print_groups
    from graphopt.report.json import write_json

    if passes is not None and score is not None:
        raise GraphoptError(
            "the pipeline has a score of its own", where="--score", fix="name it in --passes"
        )
    check_outputs({"--json": json_path}, {"MODEL": source, "--calib": calib})
    if score is not None:
        passes = f"prune-channels{{score={score}}}"
    found = find_groups(
        source,
        DEFAULT_PASSES if passes is None else passes,
        calibration=calib,
        target=target,
        progress=Bars(),
    )
    if json_path is not None:
        write_json(found, json_path)
    print_groups(found, every=every)
