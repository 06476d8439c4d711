"""Which nodes the options name, in the model as the user knows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import constant_array, sole_use
from graphopt.ir.selection import is_named, suggestion
from graphopt.targets.quantization import QuantizationRules


@dataclass
class Selection:
    """Nodes of the model to quantize."""

    nodes: set[ir.Node] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)
    """Patterns that name nodes of the original model of which nothing is left."""


def select(
    option: str,
    patterns: Iterable[str],
    original: ir.Model,
    model: ir.Model,
    rules: QuantizationRules,
) -> Selection:
    """The nodes of the main graph that `patterns` name: by name, by glob or by operator.

    Args:
        option: what the user calls the list.
        original: the model that the names are from. A node of it that was fused stands for the
            node of `model` that computes what it did.

    Raises:
        GraphoptError: if a pattern names nothing, and is no operator either.
    """
    chosen = Selection()
    heirs = _Heirs(original, model, rules)
    for pattern in patterns:
        there = [node for node in original.graph if is_named(node, pattern)]
        found = {node for node in model.graph if is_named(node, pattern)}
        if not there and not found and not is_operator(pattern):
            raise GraphoptError(
                f"{option}: no node or operator is called '{pattern}'",
                where="pass 'quantize'",
                fix=suggestion(pattern, original),
            )
        for node in there:
            # What is named as an operator means those that stay such operators.
            heir = None if _is_incidental(node, pattern, rules) else heirs.of(node)
            if heir is not None:
                found.add(heir)
        if there and not found:
            chosen.gone.append(pattern)
        chosen.nodes |= found
    return chosen


def is_operator(name: str) -> bool:
    """Whether the default ONNX domain has an operator `name`."""
    return bool(onnx.defs.has(name))


def _is_incidental(node: ir.Node, pattern: str, rules: QuantizationRules) -> bool:
    named = pattern == node.name or fnmatchcase(node.name or "", pattern)
    return not named and node.op_type not in rules.operators


class _Heirs:
    """What became of the nodes of a model."""

    def __init__(self, original: ir.Model, model: ir.Model, rules: QuantizationRules) -> None:
        self.rules = rules
        self.same = original is model
        self.made = {value.name: node for node in model.graph for value in node.outputs}

    def of(self, node: ir.Node) -> ir.Node | None:
        """The node that computes now what `node` did; None if there is none."""
        if self.same:
            return node
        return self.below(node) or self.above(node)

    def below(self, node: ir.Node) -> ir.Node | None:
        """What took `node` in together with what reads it, or is `node` itself.

        The first output downstream that is still there comes from it.
        """
        current: ir.Node | None = node
        while current is not None and current.outputs:
            for value in current.outputs:
                heir = self.made.get(value.name)
                if heir is not None and (current is node or self.is_wider(heir, current)):
                    return heir
                if heir is not None:
                    return None
            current = sole_use(current.outputs[0])
        return None

    def is_wider(self, heir: ir.Node, last: ir.Node) -> bool:
        """Whether `heir`, which gives what `last` did, also does what was above `last`."""
        return heir.op_type in self.rules.operators and last.op_type not in self.rules.operators

    def above(self, node: ir.Node) -> ir.Node | None:
        """The layer above `node` that took it in, as a Conv does a BatchNormalization.

        It has other constants than it had then.
        """
        value = node.inputs[0] if node.inputs else None
        while value is not None and (producer := value.producer()) is not None:
            heir = self.made.get(value.name)
            if heir is not None:
                changed = heir.op_type in self.rules.operators and _differ(producer, heir)
                return heir if changed else None
            value = producer.inputs[0] if producer.inputs else None
        return None


def _differ(before: ir.Node, after: ir.Node) -> bool:
    """Whether a node has other constants, or more of them, than it had."""
    arrays = [[constant_array(v) for v in node.inputs[1:]] for node in (before, after)]
    if len(arrays[0]) != len(arrays[1]):
        return True
    return any(
        not (a is None and b is None) and (a is None or b is None or not np.array_equal(a, b))
        for a, b in zip(*arrays, strict=True)
    )
