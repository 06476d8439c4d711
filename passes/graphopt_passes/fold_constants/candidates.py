"""Which nodes can be evaluated before run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import is_standard, subgraphs
from graphopt.ir.facts import Facts
from graphopt_passes.fold_constants.constants import can_become_constant
from graphopt_passes.fold_constants.evaluate import Evaluator
from graphopt_passes.fold_constants.island import (
    TYPES,
    Output,
    constant_type,
    constant_value,
    output_of,
)
from graphopt_passes.fold_constants.moves import MOVES

# Random, or left as they are because a quantized model states its precision with them.
_BARRIERS = frozenset(
    {
        "Bernoulli",
        "Constant",
        "DequantizeLinear",
        "Dropout",
        "DynamicQuantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# onnx does not say of these that they are deterministic, but they only move elements.
_DETERMINISTIC = frozenset({"DepthToSpace", "SpaceToDepth"})

# A node that makes more than this out of less is not run to see what it gives.
LARGEST_EXPANSION = 64 << 20


@dataclass
class Found:
    """The nodes that can be evaluated, in topological order, and what they give."""

    nodes: list[ir.Node] = field(default_factory=list)
    outputs: Mapping[ir.Value, Output] = field(default_factory=dict)
    waits: bool = False
    """Whether more may be found when these have been evaluated."""


class Candidates:
    """Finds nodes to evaluate.

    Args:
        overridden: operators of the default domain that a function of the model replaces.
    """

    def __init__(
        self, model: ir.Model, facts: Facts, overridden: frozenset[str], evaluator: Evaluator
    ) -> None:
        self._model = model
        self._facts = facts
        self._overridden = overridden
        self._evaluator = evaluator
        self._evaluable: dict[str, bool] = {}
        self.too_large: dict[ir.Node, int] = {}
        """Nodes that were not run for the size of what they give, and that size in bytes."""

    def find(self, nodes: list[ir.Node], known: dict[ir.Value, np.ndarray]) -> Found:
        """Those of `nodes` that can be evaluated now.

        Args:
            nodes: all nodes of a model, users after what they use.
            known: values that need no evaluation; their nodes are left out.
        """
        self.too_large = {}
        ready: set[ir.Value] = set()
        constant: list[ir.Node] = []
        for node in nodes:
            if self._is_constant(node, ready, known):
                constant.append(node)
                ready.update(node.outputs)
        outputs: dict[ir.Value, Output] = {}
        for node in constant:
            for value in node.outputs:
                output = output_of(node, value, self._facts) if value.name else None
                if output is not None:
                    outputs[value] = output
        found = Found(outputs=outputs)
        ready = set()
        for node in constant:
            if self._inputs_ready(node, ready, known) and self._is_safe(node, outputs, known):
                found.nodes.append(node)
                ready.update(node.outputs)
        found.waits = bool(found.nodes) and len(found.nodes) < len(constant)
        return found

    def _is_constant(
        self, node: ir.Node, ready: set[ir.Value], known: Mapping[ir.Value, np.ndarray]
    ) -> bool:
        if not self._inputs_ready(node, ready, known) or not self._is_evaluable(node):
            return False
        return node not in self._evaluator.failed and not any(v in known for v in node.outputs)

    def _inputs_ready(
        self, node: ir.Node, ready: set[ir.Value], known: Mapping[ir.Value, np.ndarray]
    ) -> bool:
        any_type, some = node.op_type in MOVES, False
        for value in node.inputs:
            if value is None:
                continue
            some = True
            if value not in ready:
                constant = constant_type(value, known)
                if constant is None or not (any_type or constant[0] in TYPES):
                    return False
        return some

    def _is_evaluable(self, node: ir.Node) -> bool:
        if not is_standard(node, node.op_type) or node.overload:
            return False
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return False
        if next(subgraphs(node), None) is not None:
            return False
        if node.op_type not in self._evaluable:
            self._evaluable[node.op_type] = self._is_evaluable_operator(node.op_type)
        return self._evaluable[node.op_type]

    def _is_evaluable_operator(self, op_type: str) -> bool:
        if op_type in _BARRIERS or op_type in self._overridden:
            return False
        try:
            schema = onnx.defs.get_schema(op_type, self._facts.opset, "")
        except onnx.defs.SchemaError:
            return False
        if schema.deprecated:
            return False
        kinds = getattr(onnx.defs.OpSchema, "NodeDeterminism", None)  # older onnx lacks it
        if kinds is None or op_type in _DETERMINISTIC:
            return True
        return bool(getattr(schema, "node_determinism", None) == kinds.Deterministic)

    def _is_safe(
        self,
        node: ir.Node,
        outputs: Mapping[ir.Value, Output],
        known: Mapping[ir.Value, np.ndarray],
    ) -> bool:
        """Whether it is known what running `node` takes: neither all memory, nor a crash."""
        named = [value for value in node.outputs if value.name]
        if not all(
            v in outputs and can_become_constant(self._model, v, outputs[v].dtype) for v in named
        ):
            return False
        size = sum(outputs[value].nbytes for value in named)
        if size > LARGEST_EXPANSION and size > 4 * _bytes(node, outputs, known):
            self.too_large[node] = size
            return False
        if node.op_type in ("Div", "Mod") and node.outputs[0] in outputs:
            return not _may_trap(node, outputs[node.outputs[0]].dtype, known)
        return True


def _bytes(
    node: ir.Node, outputs: Mapping[ir.Value, Output], known: Mapping[ir.Value, np.ndarray]
) -> int:
    total = 0
    for value in node.inputs:
        if value is None:
            continue
        constant = constant_type(value, known)
        total += outputs[value].nbytes if constant is None else constant[1]
    return total


def _may_trap(node: ir.Node, dtype: ir.DataType, known: Mapping[ir.Value, np.ndarray]) -> bool:
    """Whether an integer division could stop the process: by 0, or of the lowest number by -1.

    A divisor that is itself yet to be evaluated is not known; it will be in the next round.
    """
    if dtype.is_floating_point():
        return False
    divisor = node.inputs[1] if len(node.inputs) > 1 else None
    array = None if divisor is None else constant_value(divisor, known)
    return array is None or bool(np.any((array == 0) | (array == -1)))
