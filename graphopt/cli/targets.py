"""graphopt targets"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from graphopt.targets import Target


@click.command(short_help="List what --target takes, or show what is known of one.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def targets(name: str | None, as_json: bool) -> None:
    """List what --target takes, or show what is known of the target NAME."""
    from graphopt.targets import get_target, target_names

    if as_json:
        from graphopt.report.json import dumps

        chosen = target_names() if name is None else (name,)
        click.echo(dumps({"targets": [get_target(each) for each in chosen]}), nl=False)
    elif name is not None:
        click.echo("\n".join(_described(get_target(name))))
    else:
        width = max(map(len, target_names()))
        for each in map(get_target, target_names()):
            click.echo(f"  {each.name:<{width}}  {each.description} [{each.precisions_text()}]")


def _described(target: Target) -> list[str]:
    lines = [f"{target.name}: {target.description}", f"  rules of: {target.family}"]
    if target.sm is not None:
        lines.append(f"  compute capability: {target.sm}")
    lines.append(f"  computes in: {target.precisions_text()}")
    lines.append(f"  reads weights in: {', '.join(sorted(target.weight_formats))}")
    if target.alignment:
        multiples = (f"{n} for {each}" for each, n in target.alignment.items() if n > 1)
        lines.append(f"  channels in multiples of: {', '.join(multiples)}")
    if target.opsets is not None:
        lines.append("  opsets: {} to {}".format(*target.opsets))
    if target.tensorrt is not None:
        lines.append("  TensorRT: {} to {}".format(*target.tensorrt))
    if target.family == "tensorrt":
        lines.append(f"  sparsity: {target.sparsity or 'none'}")
        lines.append(
            f"  DLA: {f'{target.dla_cores} cores at most' if target.dla_cores else 'none'}"
        )
        lines.append(f"  built by: {', '.join(target.backends)}")
    if target.stand_in is not None:
        lines.append(f"  stand-in where it cannot be built for: {target.stand_in}")
    return lines
