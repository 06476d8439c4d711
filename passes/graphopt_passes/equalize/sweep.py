"""Which channels must be scaled alike, and which constants a factor of theirs goes into.

Every float tensor has labels: an array of atoms that broadcasts to the tensor. Its element at each
position can be multiplied by the factor of the atom there if all else that has the atom is
too. A convolution's weight [o, i] takes up what that changes: it is multiplied by the factor of its
output channel and divided by that of its input channel. Atoms of what cannot be scaled are frozen:
their factor is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import (
    constant_array,
    constant_tensor,
    label,
    replaced_operators,
    subgraphs,
)
from graphopt.ir.facts import Dims, Facts
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt_passes.prune_channels.atoms import Atoms, Labels

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


class BarrierError(Exception):
    """No factor goes through a node; the message says why."""


@dataclass(frozen=True)
class Slot:
    """A constant input that is multiplied by the factors of `up` and divided by those of `down`.

    Both are labels that broadcast to the constant.
    """

    node: ir.Node
    index: int
    up: Labels | None = None
    down: Labels | None = None


@dataclass(frozen=True)
class Maker:
    """A node that can give its output any factors, and the atoms that it made for them."""

    node: ir.Node
    atoms: Labels


@dataclass
class Labelling:
    """What the sweep found."""

    atoms: Atoms
    labels: dict[ir.Value, Labels] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    makers: list[Maker] = field(default_factory=list)


class Op:
    """A node, as its rule sees it."""

    def __init__(self, sweep: Sweep, node: ir.Node) -> None:
        self._sweep = sweep
        self.node = node
        self.opset = sweep.facts.opset
        self.slots: list[Slot] = []
        self.makers: list[Maker] = []

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def value(self, index: int) -> ir.Value:
        value = self.node.inputs[index] if self.has(index) else None
        if value is None:
            raise BarrierError("an input is missing")
        return value

    def is_constant(self, index: int) -> bool:
        return self.has(index) and constant_tensor(self.node.inputs[index]) is not None

    def constant(self, index: int) -> np.ndarray[Any, Any] | None:
        return constant_array(self.node.inputs[index]) if self.has(index) else None

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a constant of floats.

        Raises:
            BarrierError: if the input is no such constant.
        """
        tensor = constant_tensor(self.value(index))
        if tensor is None:
            raise BarrierError("a parameter of it is computed")
        if tensor.dtype not in FLOATS:
            raise BarrierError(f"it computes in {tensor.dtype.name.lower()}")
        return tuple(tensor.shape.numpy())

    def dims(self, index: int) -> Dims:
        return self._known(self.value(index))

    def out_dims(self, index: int = 0) -> Dims:
        return self._known(self.node.outputs[index])

    def _known(self, value: ir.Value) -> Dims:
        dims = self._sweep.facts.dims(value)
        if dims is None:
            raise BarrierError("a shape is not known")
        return dims

    def attribute(self, name: str, default: int) -> int:
        return self.node.attributes.get_int(name, default)

    def axis(self, default: int, rank: int) -> int:
        return self.attribute("axis", default) % rank

    def ints(self, index: int, name: str) -> list[int] | None:
        """A list from a constant input or, in older opsets, an attribute; None if there is none.

        Raises:
            BarrierError: if it is computed.
        """
        if not self.has(index):
            given = self.node.attributes.get_ints(name, None)
            return None if given is None else list(given)
        known = self._sweep.facts[self.value(index)].ints()
        array = constant_array(self.value(index)) if known is None else np.array(known)
        if array is None:
            raise BarrierError(f"its {name} are computed")
        return [int(number) for number in array.reshape(-1)]

    def labels(self, index: int) -> Labels:
        """The labels of an input, of its rank unless they are frozen."""
        value = self.value(index)
        if constant_tensor(value) is not None:
            return self.frozen("a constant")
        return self._sweep.labels_of(value)

    def is_frozen(self, labels: Labels) -> bool:
        return len(self._sweep.found.atoms.free(labels.reshape(-1))) == 0

    def frozen(self, reason: str) -> Labels:
        return self._sweep.found.atoms.frozen(1, reason)[0:1].reshape(())

    def freeze(self, labels: Labels, reason: str | None = None) -> None:
        self._sweep.found.atoms.freeze(labels.reshape(-1), reason or str(self))

    def tie(self, first: Labels, second: Labels) -> Labels:
        """Gives both the same factors, position by position; returns the more detailed."""
        left, right = np.broadcast_arrays(first, second)
        self._sweep.found.atoms.tie(left.reshape(-1), right.reshape(-1))
        return first if first.size >= second.size and first.ndim >= second.ndim else second

    def level(self, labels: Labels, axes: Iterable[int]) -> Labels:
        """`labels` of a tensor, made the same along `axes`, where their length becomes 1."""
        for axis in axes:
            if labels.ndim and labels.shape[axis] > 1:
                first = np.take(labels, [0], axis)
                self.tie(labels, first)
                labels = first
        return labels

    def along(self, index: int, axis: int, rank: int) -> Labels:
        """The labels [channels] of an input of `rank` that is scaled along `axis` alone.

        It has one label if all channels have the same.
        """
        labels = self.labels(index)
        if labels.ndim == 0:
            return labels.reshape(1)
        if labels.ndim != rank:
            raise BarrierError(f"its input has rank {labels.ndim}")
        return self.level(labels, [a for a in range(rank) if a != axis % rank]).reshape(-1)

    def make(self, count: int, axis: int, rank: int) -> Labels:
        """New atoms for `count` channels along `axis` of an output of `rank`."""
        atoms = self._sweep.found.atoms.new(count)
        self.makers.append(Maker(self.node, atoms))
        return atoms.reshape([count if a == axis % rank else 1 for a in range(rank)])

    def scale(self, index: int, up: Labels | None = None, down: Labels | None = None) -> None:
        """Lets a constant take factors.

        Raises:
            BarrierError: if the constant would have to grow for it.
        """
        shape = self.shape(index)
        fitted = [None if labels is None else _fitted(labels, shape) for labels in (up, down)]
        self.slots.append(Slot(self.node, index, *fitted))

    def follow(self, index: int, labels: Labels) -> None:
        """Gives an input the factors of `labels`."""
        if not self.is_constant(index):
            self.tie(self.labels(index), labels)
        elif np.any(self.constant(index)):  # zeros fit any factor
            self.scale(index, labels)

    def __str__(self) -> str:
        return f"{self.node.op_type} '{label(self.node)}'"


def _fitted(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """`labels` without leading axes of length 1 that a constant of `shape` does not have."""
    spare = max(labels.ndim - len(shape), 0)
    if any(n > 1 for n in labels.shape[:spare]):
        raise BarrierError("one constant serves several channels")
    labels = labels.reshape(labels.shape[spare:])
    if np.broadcast_shapes(labels.shape, shape) != shape:
        raise BarrierError("one constant serves several channels")
    return labels


Rule = Callable[[Op], "Labels | Sequence[Labels]"]


class Sweep:
    """Goes through the main graph and applies the rule of each operator."""

    def __init__(self, model: ir.Model, facts: Facts) -> None:
        self.found = Labelling(Atoms())
        self.facts = facts
        self._model = model
        self._replaced = replaced_operators(model)

    def run(self, rules: Mapping[str, Rule]) -> Labelling:
        for node in self._model.graph:
            known = node.domain in DEFAULT_DOMAINS and node.op_type not in self._replaced
            self._visit(node, rules.get(node.op_type) if known else None)
        for value, labels in self.found.labels.items():
            if value.is_graph_output():
                self._freeze(labels, f"output '{value.name}' of the graph")
            elif any(use.node.graph is not self._model.graph for use in value.uses()):
                self._freeze(labels, "a subgraph")
        return self.found

    def labels_of(self, value: ir.Value) -> Labels:
        if value in self.found.labels:
            return self.found.labels[value]
        return self.found.atoms.frozen(1, f"'{value.name}'").reshape(())

    def _visit(self, node: ir.Node, rule: Rule | None) -> None:
        op = Op(self, node)
        try:
            if rule is None or next(subgraphs(node), None) is not None:
                raise BarrierError("no factor goes through it")
            result = rule(op)
        except BarrierError:
            self._stop(op)
            return
        self.found.slots.extend(op.slots)
        self.found.makers.extend(op.makers)
        results = [result] if isinstance(result, np.ndarray) else result
        for value, labels in zip(node.outputs, results, strict=False):
            if self.facts.dtype(value) not in FLOATS:
                self._freeze(labels, f"'{value.name}', which is of no known float type")
            self.found.labels[value] = labels

    def _stop(self, op: Op) -> None:
        """Freezes what `op` reads, if it reads more of it than its shape."""
        frozen = op.frozen(str(op))
        if op.node.op_type not in ("Shape", "Size"):
            for value in op.node.inputs:
                if value in self.found.labels:
                    self._freeze(self.found.labels[value], str(op))
        for value in op.node.outputs:
            self.found.labels[value] = frozen

    def _freeze(self, labels: Labels, reason: str) -> None:
        self.found.atoms.freeze(labels.reshape(-1), reason)
