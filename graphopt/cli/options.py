"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(what: str) -> Callable[[Command], Command]:
    """`-o`, with `what` as its help."""
    kind = click.Path(path_type=Path)
    return click.option(
        "-o", "--output", "output", metavar="OUT", required=True, type=kind, help=what
    )


# Of what makes or checks engines.
gpu_option = click.option(
    "--target", required=True, help="The GPU that it is for, as sm86; see 'graphopt targets'."
)
shapes_option = click.option(
    "--shapes",
    metavar="TEXT",
    help="Shapes of dynamic inputs, least, best and greatest: "
    "'image:1x3x224x224,8x3x224x224,32x3x224x224'; more inputs behind a semicolon.",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=1800.0,
    show_default=True,
    metavar="S",
    help="Seconds until the build is given up.",
)

# Of what runs passes.
target_option = click.option(
    "--target",
    default="generic",
    show_default=True,
    help="What it is to run on, as sm86; see 'graphopt targets'.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Calibrate in so many processes; the ranges are the same to the bit.",
)
backend_option = click.option(
    "--backend", metavar="dask=ADDRESS", help="Calibrate on a Dask cluster instead."
)

json_option = click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(path_type=Path), help="Write a report."
)
