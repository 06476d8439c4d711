"""Loops that run a known number of times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import (
    add_constant,
    constant_tensor,
    default_opset,
    is_standard,
    label,
    replaced_operators,
    walk,
)
from graphopt.ir.facts import Facts
from graphopt.rewriting import DeclinedError
from graphopt_passes.inline.branches import constant_truth
from graphopt_passes.inline.splice import Part, Splicer, emptied

_AXES_AS_INPUT = 13


@dataclass(frozen=True)
class _Loop:
    """A Loop node taken apart."""

    node: ir.Node
    body: ir.Graph

    @property
    def carried(self) -> list[ir.Value | None]:
        return list(self.node.inputs[2:])

    @property
    def scanned(self) -> list[ir.Value]:
        """The outputs of the body that are collected."""
        return list(self.body.outputs[1 + len(self.carried) :])

    @property
    def collected(self) -> list[ir.Value]:
        """The outputs of the node that hold what is collected."""
        return list(self.node.outputs[len(self.carried) :])


class Loops:
    """What takes the place of Loop nodes."""

    def __init__(
        self, model: ir.Model, facts: Facts, splicer: Splicer, max_unroll: int, max_nodes: int
    ) -> None:
        self._model = model
        self._facts = facts
        self._splicer = splicer
        self._max_unroll = max_unroll
        self._max_nodes = max_nodes
        self._opset = default_opset(model)
        self._replaced = replaced_operators(model)

    def expand(self, node: ir.Node, *, never_only: bool) -> list[ir.Node] | None:
        """Puts the iterations in place of the Loop `node`; the nodes that are new there.

        Args:
            never_only: only if it does not run at all.

        Returns:
            None if it is not known how often it runs.

        Raises:
            DeclinedError: if it is known but must stay.
        """
        loop = _taken_apart(node)
        times = None if loop is None else self._times(loop)
        if loop is None or times is None or (never_only and times):
            return None
        self._check(loop, times)
        self._splicer.require_identity(node)
        self._splicer.release(node)
        return self._unrolled(loop, times) if times else self._skipped(loop)

    def _times(self, loop: _Loop) -> int | None:
        """How often the body runs; None if that is not certain."""
        most, first = loop.node.inputs[:2]
        limit = _count(most)
        starts = True if first is None else constant_truth(first)
        if starts is False or limit == 0:
            return 0
        goes_on = self._goes_on(loop.body)
        if starts is None or goes_on is None or (limit is None and most is not None):
            return None
        return limit if goes_on else 1

    def _goes_on(self, body: ir.Graph) -> bool | None:
        """Whether the body lets the loop go on, each time; None if it depends."""
        value = body.outputs[0]
        while value is not body.inputs[1]:
            known = constant_tensor(value)
            if known is not None:
                return constant_truth(value)
            node = value.producer()
            if node is None or not is_standard(node, "Identity") or node.inputs[0] is None:
                return None
            if "Identity" in self._replaced or node.graph is not body:
                return None
            value = node.inputs[0]
        return True

    def _check(self, loop: _Loop, times: int) -> None:
        """Raises DeclinedError if a loop that runs `times` times must stay."""
        if times == 0 and any(v.uses() or v.is_graph_output() for v in loop.collected):
            raise DeclinedError("it never runs, so the shape of what it collects is not known")
        if times > 1:
            if times > self._max_unroll:
                raise DeclinedError(f"it runs {times} times (max_unroll is {self._max_unroll})")
            size = times * sum(1 for _ in walk(loop.body))
            if size > self._max_nodes:
                raise DeclinedError(
                    f"it would become {size:,} nodes (max_nodes is {self._max_nodes:,})"
                )
        for inner, outer in zip(loop.scanned, loop.collected, strict=True):
            if times and (outer.uses() or outer.is_graph_output()) and not self._can_stack(inner):
                raise DeclinedError("what it collects is of a type that Concat does not take")

    def _can_stack(self, value: ir.Value) -> bool:
        dtype = self._facts.dtype(value)
        return dtype is not None and all(
            operator not in self._replaced and _takes(operator, self._opset, dtype)
            for operator in ("Unsqueeze", "Concat")
        )

    def _skipped(self, loop: _Loop) -> list[ir.Node]:
        """A loop that never runs gives what it was given."""
        return self._splicer.splice(loop.node, [], loop.carried)

    def _unrolled(self, loop: _Loop, times: int) -> list[ir.Node]:
        node, body = loop.node, loop.body
        constants = self._splicer.constants(body, node)
        state = [node.inputs[1], *loop.carried]  # the condition, then what is carried
        parts: list[Part] = []
        rows: list[list[ir.Value | None]] = []
        for number in range(times):
            bound = dict(zip(body.inputs, self._inputs(loop, number, state), strict=True))
            copy = body.clone(allow_outer_scope_values=True)
            results = [
                constants[old] if old in constants else bound.get(old, new)
                for old, new in zip(body.outputs, copy.outputs, strict=True)
            ]
            inputs = list(copy.inputs)
            parts.append(Part(emptied(copy), suffix=f"/{number}" if times > 1 else ""))
            for value, actual in zip(inputs, bound.values(), strict=True):
                for user, index in value.uses():
                    user.replace_input_with(index, actual)
            state = results[: len(state)]
            rows.append(results[len(state) :])
        stacked = [
            self._stack(outer, list(items), node, parts)
            for outer, items in zip(loop.collected, zip(*rows, strict=True), strict=True)
        ]
        return self._splicer.splice(node, parts, [*state[1:], *stacked])

    def _inputs(
        self, loop: _Loop, number: int, state: list[ir.Value | None]
    ) -> list[ir.Value | None]:
        """What the body is fed in iteration `number`."""
        counter, condition = loop.body.inputs[:2]
        started = state[0]
        if started is None and _is_used(condition):
            started = self._constant(np.array(True), f"{label(loop.node)}/starts", loop.node)
        count = None
        if _is_used(counter):
            base = f"{label(loop.node)}/iteration/{number}"
            count = self._constant(np.array(number, np.int64), base, loop.node)
        return [count, started, *state[1:]]

    def _constant(self, data: np.ndarray, base: str, before: ir.Node) -> ir.Value:
        return add_constant(self._model, self._splicer.fresh(base), data, before)

    def _stack(
        self, outer: ir.Value, items: list[ir.Value | None], node: ir.Node, parts: list[Part]
    ) -> ir.Value | None:
        """The `items` of all iterations along a new first axis, made by nodes added to `parts`."""
        if not _is_used(outer):
            return None
        extra: list[ir.Value] = []
        attributes = [ir.AttrInt64s("axes", [0])]
        if self._opset >= _AXES_AS_INPUT:
            axes = np.array([0], np.int64)
            extra = [self._constant(axes, f"{outer.name}/axes", node)]
            attributes = []
        made = [ir.Node("", "Unsqueeze", [item, *extra], attributes) for item in items]
        for number, unsqueeze in enumerate(made):
            _name(unsqueeze, f"{outer.name}/{number}")
        if len(made) > 1:
            rows = [unsqueeze.outputs[0] for unsqueeze in made]
            made.append(ir.Node("", "Concat", rows, [ir.AttrInt64("axis", 0)]))
            _name(made[-1], outer.name or "")
        parts.append(Part(made))
        return made[-1].outputs[0]


def _name(node: ir.Node, name: str) -> None:
    node.name = node.outputs[0].name = name


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _taken_apart(node: ir.Node) -> _Loop | None:
    """The Loop `node`; None if it is not what the operator demands."""
    attribute = node.attributes.get("body")
    if attribute is None or attribute.type != ir.AttributeType.GRAPH or len(node.inputs) < 2:
        return None
    loop = _Loop(node, attribute.as_graph())
    carried = len(loop.carried)
    if len(loop.body.inputs) != 2 + carried or len(loop.body.outputs) < 1 + carried:
        return None
    if len(node.outputs) != len(loop.body.outputs) - 1 or None in loop.carried:
        return None
    return loop


def _count(value: ir.Value | None) -> int | None:
    """The number that the constant `value` holds; None if it is not known, or no count."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype != ir.DataType.INT64:
        return None
    number = int(tensor.numpy().reshape(-1)[0])
    return number if number >= 0 else None


def _takes(operator: str, opset: int, dtype: ir.DataType) -> bool:
    """Whether the first input of `operator` may be a tensor of `dtype`."""
    schema = onnx.defs.get_schema(operator, opset, "")
    name = f"tensor({dtype.name.lower()})"
    kinds = {constraint.type_param_str: constraint for constraint in schema.type_constraints}
    return name in kinds[schema.inputs[0].type_str].allowed_type_strs
