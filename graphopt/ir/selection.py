"""Nodes that a user names."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError, did_you_mean


def named_nodes(
    model: ir.Model, patterns: Iterable[str], *, where: str, option: str = "exclude"
) -> set[ir.Node]:
    """The nodes of the main graph that `patterns` name: by name, by glob or by operator.

    Args:
        where: what the patterns are for, such as "pass 'quantize-weights'"; for the message.
        option: what the user calls the list.

    Raises:
        GraphoptError: if a pattern names nothing, and is no operator either.
    """
    chosen: set[ir.Node] = set()
    for pattern in patterns:
        found = {node for node in model.graph if is_named(node, pattern)}
        if not found and not onnx.defs.has(pattern):
            raise GraphoptError(
                f"{option}: no node or operator is called '{pattern}'",
                where=where,
                fix=suggestion(pattern, model),
            )
        chosen |= found
    return chosen


def is_named(node: ir.Node, pattern: str) -> bool:
    """Whether `pattern` names `node`: by name, by glob or by operator."""
    return pattern in (node.name, node.op_type) or fnmatchcase(node.name or "", pattern)


def suggestion(pattern: str, model: ir.Model) -> str:
    """What to do about a pattern that names nothing."""
    names = {node.name for node in model.graph if node.name} | {n.op_type for n in model.graph}
    hint = did_you_mean(pattern, sorted(names))
    return hint if hint.startswith("did") else "`graphopt inspect --json` lists the nodes"
