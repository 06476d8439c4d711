"""graphopt passes"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from graphopt.pipeline.base import Pass


@click.command()
@click.argument("name", required=False)
def passes(name: str | None) -> None:
    """List the passes and presets, or show the options of the pass NAME."""
    from graphopt.pipeline.presets import PRESETS
    from graphopt.pipeline.registry import find_pass, pass_names

    if name in PRESETS:
        click.echo(f"{name} = {PRESETS[name]}")
        return
    if name is not None:
        click.echo(_described(find_pass(name)))
        return
    width = max(map(len, (*pass_names(), *PRESETS)))
    click.echo("Passes:")
    for each in pass_names():
        cls = find_pass(each)
        kind = f"{cls.stage.name.lower()}, {cls.effect.value}"
        click.echo(f"  {each:<{width}}  {_summary(cls)} [{kind}]")
    click.echo("\nPresets:")
    for preset, text in PRESETS.items():
        click.echo(f"  {preset:<{width}}  {text}")


def _summary(cls: type[Pass]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _described(cls: type[Pass]) -> str:
    lines = [
        f"{cls.name} ({cls.stage.name.lower()}, {cls.effect.value})",
        "",
        inspect.getdoc(cls) or "",
    ]
    options = dataclasses.fields(cls)
    if options:
        lines += ["", "Options:"]
    for option in options:
        required = option.default is dataclasses.MISSING
        default = "required" if required else f"default {_shown(option.default)}"
        lines.append(f"  {option.name}: {option.type} ({default})")
    needs = ", ".join(need.value for need in cls.needs)
    if needs:
        lines += ["", f"Needs {needs}."]
    return "\n".join(lines)


def _shown(value: object) -> str:
    from graphopt.options import format_value

    return format_value(value)
