"""graphopt sensitivity"""

from __future__ import annotations

from pathlib import Path

import click

from graphopt.cli.options import backend_option, jobs_option, json_option, target_option

PLOTS = (".svg", ".html")


@click.command(short_help="Show how much each layer suffers from quantization.")
@click.argument("source", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("--calib", required=True, metavar="SRC", help="Samples; see 'optimize --calib'.")
@click.option(
    "--passes",
    metavar="TEXT",
    help="A pipeline that quantizes, with options as for 'optimize' (default: quantize).",
)
@click.option(
    "--eval", "evaluation", metavar="SRC", help="A score, for quantize{max_drop=...} in TEXT."
)
@target_option
@jobs_option
@backend_option
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw the layers, in the order of the graph: an .svg or .html file.",
)
@json_option
def sensitivity(
    source: Path,
    calib: str,
    passes: str | None,
    evaluation: str | None,
    target: str,
    jobs: int,
    backend: str | None,
    plot: Path | None,
    json_path: Path | None,
) -> None:
    """Show how much each layer of MODEL suffers from quantization, the worst first.

    One layer at a time is quantized, and the outputs are compared with the float model's, on
    samples held out from calibration, in ONNX Runtime with its own optimizations off.

    \b
    graphopt sensitivity model.onnx --calib calib.npz --plot layers.svg
    graphopt sensitivity model.onnx --calib calib.npz --passes "quantize{min_sqnr=30}"
    """
    from graphopt.cli.paths import check_outputs
    from graphopt.cli.progress import Bars
    from graphopt.errors import GraphoptError
    from graphopt.jobs.sensitivity import DEFAULT_PASSES, measure_sensitivity
    from graphopt.report.json import write_json
    from graphopt.report.plot import write_plot
    from graphopt.report.text import print_sensitivity

    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise GraphoptError(
            "a plot is an .svg or .html file", where=str(plot), fix="name it so that it ends so"
        )
    check_outputs(
        {"--json": json_path, "--plot": plot},
        {"MODEL": source, "--calib": calib, "--eval": evaluation},
    )
    measured = measure_sensitivity(
        source,
        DEFAULT_PASSES if passes is None else passes,
        calibration=calib,
        evaluation=evaluation,
        target=target,
        jobs=jobs,
        backend=backend,
        progress=Bars(),
    )
    if json_path is not None:
        write_json(measured, json_path)
    if plot is not None:
        write_plot(measured, plot)
    print_sensitivity(measured)
    if measured.unmet is not None:
        raise click.exceptions.Exit(1)
