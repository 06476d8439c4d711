"""Rules for nodes whose first output is one of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import onnx_ir as ir

from graphopt.rewriting import Rewriter, Rule

Source: TypeAlias = Callable[[ir.Node, Rewriter], "ir.Value | None"]
"""Finds the value that the first output of a node always equals: contents, type and shape."""


def noops(source: Source, *operators: str) -> tuple[Rule, ...]:
    """A rule for each of `operators`: its users use its `source` instead."""
    return tuple(
        Rule(f"noop-{operator.lower()}", (operator,), partial(_bypass, source=source))
        for operator in operators
    )


def _bypass(node: ir.Node, at: Rewriter, source: Source) -> bool:
    if not at.is_op(node, node.op_type) or not at.is_lone(node):
        return False
    value = source(node, at)
    return value is not None and hand_on(node, at, value)


def hand_on(node: ir.Node, at: Rewriter, value: ir.Value) -> bool:
    """Lets the users of the first output of `node` use `value`; whether they could.

    What the file records of the output is kept where it records nothing of `value`.
    """
    result = node.outputs[0]
    recorded, declared = result.shape, result.type
    if not at.replace(result, value):
        return False
    if value.producer() is not None:
        value.shape = recorded if value.shape is None else value.shape
        value.type = declared if value.type is None else value.type
    return True
