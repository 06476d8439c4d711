"""The options of all that makes or checks engines."""

from __future__ import annotations

import click

target_option = click.option("--target", required=True, help="The GPU that it is for, as sm86.")
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
