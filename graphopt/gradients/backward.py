"""Gradients through the main graph of a model, from the values of a forward run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.gradients.call import Array, Call, Rule
from graphopt.gradients.rules import is_flat, is_known, rule_of
from graphopt.ir import constant_array, default_opset, label, reads

Edge: TypeAlias = "tuple[int, int]"
"""The position of a node in the main graph, and the index of one of its inputs."""


class Backward:
    """Reverse mode: the gradient at inputs of nodes, from the gradient at outputs of the model.

    The gradient at an edge is that of what this node alone reads: where a value has several
    readers, those of its edges add up to its own. Where an operator has no rule (see
    `graphopt.gradients.RULES`), or one does not hold for it as it is, gradients do not pass, and
    the edges behind it have none.

    Attributes:
        values: the values of a forward run that `run` needs, by name.
        blocked: for edges without a gradient, the operator and node that is in the way.
    """

    def __init__(self, model: ir.Model, edges: Iterable[Edge], outputs: Iterable[str]) -> None:
        """Plans what to compute.

        Args:
            edges: where gradients are wanted.
            outputs: the values whose gradients will be given.
        """
        self._nodes = list(model.graph)
        self._opset = default_opset(model)
        wanted: dict[int, list[int]] = {}
        for number, index in edges:
            wanted.setdefault(number, []).append(index)
        self.blocked = self._find_blocked(wanted, set(outputs))
        self._steps = self._plan(wanted, set(outputs))
        inputs = [v for n, _, _ in self._steps for v in self._nodes[n].inputs]
        results = [v for n, _, _ in self._steps for v in self._nodes[n].outputs]
        computed = [v for v in inputs if v is not None and constant_array(v) is None]
        self.values = tuple(dict.fromkeys(str(v.name) for v in (*computed, *results) if v.name))

    def run(
        self, values: Mapping[str, Array], seeds: Mapping[str, Array]
    ) -> Iterator[tuple[Edge, Array]]:
        """The gradient at each edge, from the last to the first; none where it is zero throughout.

        Args:
            values: `self.values` of a forward run. Half precision is computed with in float32.
            seeds: the gradient at outputs, in their shapes.
        """
        gradients = {name: _real(seed) for name, seed in seeds.items()}
        for number, wanted, passing in self._steps:
            node = self._nodes[number]
            given = [gradients.pop(str(v.name), None) for v in node.outputs]
            if all(gradient is None for gradient in given):
                continue
            call = Call(
                node,
                self._opset,
                [_value(value, values) for value in node.inputs],
                [_value(value, values) for value in node.outputs],
                given,
            )
            rule = rule_of(node)
            assert rule is not None
            for index in sorted({*wanted, *passing}):
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    gradient = np.asarray(rule(call, index), call.input(index).dtype)
                if index in wanted:
                    yield (number, index), gradient
                if index in passing:
                    name = str(node.inputs[index].name)  # type: ignore[union-attr]
                    before = gradients.get(name)
                    gradients[name] = gradient if before is None else before + gradient

    def _find_blocked(self, wanted: Mapping[int, list[int]], outputs: set[str]) -> dict[Edge, str]:
        """The wanted edges whose gradient cannot be told, and why."""
        reaching = set(outputs)
        reasons: dict[str, str] = {}
        blocked: dict[Edge, str] = {}
        for number in reversed(range(len(self._nodes))):
            node = self._nodes[number]
            names = [str(v.name) for v in node.outputs if v.name]
            if is_flat(node) or not reaching.intersection(names):
                continue
            here = f"{node.op_type} '{label(node)}'"
            reason = next((reasons[name] for name in names if name in reasons), None)
            if reason is None and _rule_for(node, reaching) is None:
                reason = here
            reaching.update(str(v.name) for v in reads(node))
            if reason is not None:
                reasons.update({str(v.name): reason for v in reads(node)})
            for index, value in enumerate(node.inputs):
                if reason is None and value is not None and not is_known(node, index):
                    reasons[str(value.name)] = here
            for index in wanted.get(number, ()):
                if reason is not None or not is_known(node, index):
                    blocked[number, index] = reason or here
        return blocked

    def _plan(
        self, wanted: Mapping[int, list[int]], outputs: set[str]
    ) -> list[tuple[int, list[int], list[int]]]:
        """From the last node to the first: node, the wanted inputs, those that pass it on."""
        clear = {
            number: [i for i in indices if (number, i) not in self.blocked]
            for number, indices in wanted.items()
        }
        active: set[str] = set()
        passing: dict[int, list[int]] = {}
        for number, node in enumerate(self._nodes):
            # Where no gradient is wanted further up, none needs to be computed.
            on = [
                index
                for index, value in enumerate(node.inputs)
                if value is not None and value.name in active and is_known(node, index)
            ]
            if (on or clear.get(number)) and not is_flat(node) and rule_of(node) is not None:
                passing[number] = on
                active.update(str(v.name) for v in node.outputs if v.name)
        steps = []
        reaching = set(outputs)
        for number in reversed(list(passing)):
            node = self._nodes[number]
            if reaching.isdisjoint(str(v.name) for v in node.outputs):
                continue
            inputs = [node.inputs[i] for i in passing[number]]
            reaching.update(str(v.name) for v in inputs if v is not None)
            steps.append((number, clear.get(number, []), passing[number]))
        return steps


def _rule_for(node: ir.Node, reaching: set[str]) -> Rule | None:
    """The rule of `node`, unless more of its outputs matter than rules look at."""
    others = {str(v.name) for v in node.outputs[1:] if v.name}
    if node.op_type != "Split" and others & reaching:
        return None
    return rule_of(node)


def _value(value: ir.Value | None, values: Mapping[str, Array]) -> Array | None:
    if value is None or not value.name:
        return None
    constant = constant_array(value)
    return _real(values[value.name] if constant is None else constant)


def _real(array: Any) -> Array:
    """Half precision and the like as float32."""
    array = np.asarray(array)
    small = array.dtype.kind in "fV" and array.dtype.itemsize < 4
    return np.asarray(array.astype(np.float32) if small else array)
