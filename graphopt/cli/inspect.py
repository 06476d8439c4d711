"""graphopt inspect"""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Show what a model is made of: operators, size, cost.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every node.")
def inspect(source: Path, as_json: bool) -> None:
    """Show what the model IN is made of: inputs, outputs, operators, size, cost."""
    from graphopt.jobs.inspection import inspect_model
    from graphopt.report.json import dumps
    from graphopt.report.text import print_inspection

    inspection = inspect_model(source)
    if as_json:
        click.echo(dumps(inspection), nl=False)
    else:
        print_inspection(inspection)
