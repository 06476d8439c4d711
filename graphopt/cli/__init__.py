"""The command line. Commands are one file each; heavy imports happen inside them."""

from __future__ import annotations

import sys

import click

from graphopt.cli.build import build
from graphopt.cli.compare import compare
from graphopt.cli.inspect import inspect
from graphopt.cli.optimize import optimize
from graphopt.cli.passes import passes
from graphopt.errors import GraphoptError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="graphopt")
def graphopt() -> None:
    """Make an ONNX model smaller and faster, and show that it still works.

    \b
    Exit status: 0 done; 1 the result breaches a tolerance or --max-drop;
    2 bad usage or bad input.
    """


for command in (optimize, build, compare, inspect, passes):
    graphopt.add_command(command)


def main() -> None:
    """The entry point: runs a command; what the user can mend is one line, never a traceback."""
    try:
        graphopt(standalone_mode=True)
    except GraphoptError as error:
        click.echo(f"graphopt: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has gone; leave without a second complaint at shutdown.
        sys.stdout = None
        sys.exit(141)
