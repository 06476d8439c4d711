"""The command line. Commands are one file each; heavy imports happen inside them."""

from __future__ import annotations

import errno
import io
import sys

import click

from graphopt.cli.build import build
from graphopt.cli.check import check
from graphopt.cli.compare import compare
from graphopt.cli.groups import groups
from graphopt.cli.inspect import inspect
from graphopt.cli.optimize import optimize
from graphopt.cli.passes import passes
from graphopt.cli.sensitivity import sensitivity
from graphopt.cli.targets import targets
from graphopt.errors import GraphoptError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="graphopt")
def graphopt() -> None:
    """Make an ONNX model smaller and faster, and show that it still works.

    Exit status: 0 done; 1 the result breaches a tolerance or --max-drop, or a pass misses what it
    was told to reach, or check finds no way to an engine; 2 bad usage or bad input; 130
    interrupted.
    """


for command in (optimize, build, check, compare, inspect, sensitivity, groups, passes, targets):
    graphopt.add_command(command)


def main() -> None:
    """The entry point: runs a command; what the user can mend is one line, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names that its encoding does not have
    try:
        # Not `graphopt()`: it takes a reader that left for an error of status 1.
        with graphopt.make_context("graphopt", sys.argv[1:]) as context:
            graphopt.invoke(context)
        if sys.stdout is not None:  # as it is where the caller has closed it
            sys.stdout.flush()
        status = 0
    except click.exceptions.Exit as end:
        status = end.exit_code
    except GraphoptError as error:
        click.echo(f"graphopt: {error}", err=True)
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("graphopt: interrupted", err=True)
        status = 130
    except OSError as error:
        # The standard output: files have their own messages. A reader that left says nothing.
        sys.stdout = None  # or Python complains once more when it flushes at exit
        if error.errno != errno.EPIPE:
            click.echo(f"graphopt: the output cannot be written ({error.strerror})", err=True)
        status = 141 if error.errno == errno.EPIPE else 2
    sys.exit(status)
