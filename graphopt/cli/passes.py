"""graphopt passes"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, Union

import click

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.pipeline.base import Pass


@click.command(short_help="List passes and presets, or show the options of a pass.")
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
        click.echo(f"  {each:<{width}}  {_listed(each)}")
    click.echo("\nPresets:")
    for preset, text in PRESETS.items():
        click.echo(f"  {preset:<{width}}  {text}")


def _listed(name: str) -> str:
    """What it does; one that cannot be loaded does not keep the others from being seen."""
    from graphopt.pipeline.registry import find_pass

    try:
        cls = find_pass(name)
    except GraphoptError as error:
        return f"unusable: {error.what}"
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    return f"{summary} [{cls.stage.name.lower()}, {cls.effect.value}]"


def _described(cls: type[Pass]) -> str:
    from graphopt.options import option_types

    lines = [
        f"{cls.name} ({cls.stage.name.lower()}, {cls.effect.value})",
        "",
        inspect.getdoc(cls) or "",
    ]
    options = dataclasses.fields(cls)
    hints = option_types(cls, f"pass '{cls.name}'") if options else {}
    if options:
        lines += ["", "Options:"]
    for option in options:
        required = option.default is dataclasses.MISSING
        default = "required" if required else f"default {_shown(option.default)}"
        lines.append(f"  {option.name}: {_type(hints[option.name])} ({default})")
    needs = ", ".join(need.value for need in cls.needs)
    if needs:
        lines += ["", f"Needs {needs}."]
    return "\n".join(lines)


def _type(hint: Any) -> str:
    """What can be written for an option of type `hint`, as pipeline text has it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type, arguments))
    if origin is tuple:
        return f"[{_type(arguments[0])}, ...]"
    return "none" if hint is type(None) else hint.__name__


def _shown(value: object) -> str:
    from graphopt.options import format_value

    return format_value(value)
