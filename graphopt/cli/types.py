"""Types of options."""

from __future__ import annotations

import math

import click


def not_negative(text: str | float) -> float:
    """A finite number of at least 0; click's own range lets NaN through."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise click.BadParameter(f"'{text}' is not a number of at least 0")
    return number
