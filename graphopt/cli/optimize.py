"""graphopt optimize"""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import (
    backend_option,
    jobs_option,
    json_option,
    output_option,
    target_option,
)
from graphopt.cli.types import not_negative
from graphopt.pipeline.presets import DEFAULT, PRESETS


@click.command(short_help="Run passes over a model, and prove what they did.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@output_option("The ONNX file to write; it may be IN itself.")
@click.option("--passes", metavar="TEXT", help="A pipeline: pass{option=value,...},pass,...")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help=f"A pipeline by name (default: {DEFAULT}).",
)
@click.option(
    "--calib",
    metavar="SRC",
    help="Representative samples: an .npz, a folder of arrays or of images, module:function, "
    "or random.",
)
@click.option(
    "--eval",
    "evaluation",
    metavar="SRC",
    help="A score before and after: an .npz with labels, or module:function.",
)
@click.option(
    "--max-drop",
    type=not_negative,
    metavar="X",
    help="The most that the score may fall, in its unit (top1: points). On a breach no model is "
    "written and the exit status is 1.",
)
@target_option
@click.option(
    "--verify",
    type=click.Choice(["each", "final", "off"]),
    default="final",
    show_default=True,
    help="Compare outputs after each pass, at the end, or not at all.",
)
@click.option(
    "--tolerance",
    type=not_negative,
    metavar="X",
    help="What exact passes may differ by, relative to an output's peak (default: by dtype).",
)
@click.option(
    "--latency/--no-latency",
    default=None,
    help="Time both models in ONNX Runtime on this CPU (default: unless --target is a GPU).",
)
@click.option("--any-order", is_flag=True, help="Allow a pass after one of a later stage.")
@click.option("--external-data", is_flag=True, help="Put the weights into a file beside OUT.")
@click.option(
    "--dump",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Save the model after each pass there.",
)
@jobs_option
@backend_option
@click.option(
    "--ranges",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The ranges of quantized tensors, as JSON: used if FILE is there, else written.",
)
@click.option("--explain", is_flag=True, help="Say of each near miss why it was not rewritten.")
@json_option
def optimize(
    source: Path,
    output: Path,
    passes: str | None,
    preset: str | None,
    calib: str | None,
    evaluation: str | None,
    max_drop: float | None,
    target: str,
    verify: str,
    tolerance: float | None,
    latency: bool | None,
    any_order: bool,
    external_data: bool,
    dump: Path | None,
    jobs: int,
    backend: str | None,
    ranges: Path | None,
    explain: bool,
    json_path: Path | None,
) -> None:
    """Run passes over the model IN, prove what they did, and write OUT.

    \b
    graphopt optimize model.onnx -o small.onnx
    graphopt optimize model.onnx -o int8.onnx --preset int8 --calib calib.npz --eval eval.npz
    """
    from dataclasses import replace

    from graphopt.cli.paths import check_outputs
    from graphopt.cli.progress import Bars
    from graphopt.errors import GraphoptError
    from graphopt.ir import save
    from graphopt.jobs.optimize import optimize as run
    from graphopt.report.json import write_json
    from graphopt.report.text import print_report
    from graphopt.targets import get_target

    if passes is not None and preset is not None:
        raise GraphoptError("--passes and --preset exclude each other", fix="give one of them")
    check_outputs(
        {"-o": output, "--json": json_path, "--ranges": ranges},
        # OUT may be IN itself: the model has been read when it is written.
        {"IN": None if source == output else source, "--calib": calib, "--eval": evaluation},
    )
    optimized = run(
        source,
        PRESETS[preset or DEFAULT] if passes is None else passes,
        calibration=calib,
        evaluation=evaluation,
        max_drop=max_drop,
        target=target,
        verify=verify,  # type: ignore[arg-type]  # click has checked it
        tolerance=tolerance,
        latency=get_target(target).family != "tensorrt" if latency is None else latency,
        any_order=any_order,
        dump=dump,
        jobs=jobs,
        backend=backend,
        ranges=ranges,
        progress=Bars(),
    )
    report = optimized.report
    if optimized.accepted:
        written = save(optimized.model, output, external_data=external_data or None)
        after = replace(report.after, file_bytes=written)
        report = replace(report, output=str(output), after=after)
    if json_path is not None:
        write_json(report, json_path)
    print_report(report, explain=explain)
    if not optimized.met:
        raise click.exceptions.Exit(1)
