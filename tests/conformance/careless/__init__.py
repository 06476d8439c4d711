"""Small graphs on which careless rewrites of a model show."""

from __future__ import annotations

from careless import (
    elementwise,
    layout,
    linear,
    patterns,
    ranges,
    shapes,
    structure,
    types,
    versions,
)
from careless.graph import Graph

__all__ = ["GRAPHS", "Graph"]

GRAPHS: tuple[Graph, ...] = (
    *elementwise.GRAPHS,
    *ranges.GRAPHS,
    *types.GRAPHS,
    *shapes.GRAPHS,
    *layout.GRAPHS,
    *linear.GRAPHS,
    *patterns.GRAPHS,
    *structure.GRAPHS,
    *versions.GRAPHS,
)
