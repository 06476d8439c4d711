"""One forward sweep over the main graph: labels for every axis of every tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import constant_array, constant_tensor, default_opset, subgraphs
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt.ir.selection import is_named
from graphopt_passes.prune_channels.atoms import Atoms, Labels
from graphopt_passes.prune_channels.dims import Dim
from graphopt_passes.prune_channels.facts import Facts
from graphopt_passes.prune_channels.labelling import Balance, Fix, Labelling, Layer, Mix, Slot

if TYPE_CHECKING:
    from graphopt_passes.prune_channels.apply import Editor

SINGLE = "an axis of one position"


class Decline(Exception):  # noqa: N818 - not an error: the operator becomes a barrier
    """A rule cannot tell what a node does to its axes."""


class Op:
    """A node as its rule sees it."""

    def __init__(self, sweep: Sweep, number: int, node: ir.Node) -> None:
        self.node = node
        self.number = number
        self.opset = sweep.opset
        self.whole_heads = sweep.whole_heads
        self.seen: set[int] = set()
        """The inputs that the rule has asked for."""
        self._sweep = sweep
        self._found = sweep.found

    def __str__(self) -> str:
        names = (self.node.name, *(value.name for value in self.node.outputs))
        return f"{self.node.op_type} '{next(filter(None, names), f'node {self.number}')}'"

    def has(self, index: int) -> bool:
        """Whether there is an input `index`."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def value(self, index: int) -> ir.Value:
        value = self.node.inputs[index] if self.has(index) else None
        if value is None or value.name is None:
            raise Decline(f"input {index} is missing")
        return value

    def is_constant(self, index: int) -> bool:
        return self.has(index) and constant_tensor(self.value(index)) is not None

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an input at the sizes of the analysis."""
        shape = self._found.facts.shapes.get(str(self.value(index).name))
        if shape is None:
            raise Decline(f"the shape of '{self.value(index).name}' is not known")
        return shape

    def allows_zero(self) -> bool:
        """Whether 0 in the shape of a Reshape means no positions, and not those of the input."""
        return self.node.attributes.get_int("allowzero", 0) != 0

    def symbols(self, index: int) -> tuple[int | str | None, ...]:
        """The dimensions of an input: numbers, or names of free ones."""
        return self._found.facts.symbols[str(self.value(index).name)]

    def out_symbols(self) -> tuple[int | str | None, ...]:
        """The dimensions of the first output."""
        return self._found.facts.symbols[str(self.node.outputs[0].name)]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        shape = self._found.facts.shapes.get(str(self.node.outputs[index].name))
        if shape is None:
            raise Decline(f"the shape of '{self.node.outputs[index].name}' is not known")
        return shape

    def is_static(self, index: int, axis: int) -> bool:
        """Whether an axis of an input has the same length for every input of the model."""
        return isinstance(self.symbols(index)[axis], int)

    def axis(self, name: str, default: int, rank: int) -> int:
        """An attribute that names an axis, counted from the front."""
        axis = self.node.attributes.get_int(name, default)
        if not -rank <= axis < rank:
            raise Decline(f"axis {axis} is out of range")
        return axis % rank

    def labels(self, index: int) -> list[Labels]:
        """The labels of an input, read as data."""
        self.seen.add(index)
        return self._sweep.operand(self, index)

    def dims(self, index: int) -> list[Dim] | None:
        """The elements of an input that holds a shape, axes or the like; None if not known.

        The caller has to rewrite the static ones if they depend on what is cut.
        """
        self.seen.add(index)
        dims = self._found.facts.dims_of(self.value(index))
        if dims is None or dims.ndim > 1:
            return None
        for dim in dims.flat:
            if not dim.static:
                self._sweep.freeze_deps(dim, f"{self} reads its length")
        return list(dims.flat)

    def constants(self, index: int) -> list[int] | None:
        """`dims` as numbers, if they are the same for every input of the model.

        Those that were computed from lengths that are cut go on being what they are.
        """
        self.seen.add(index)
        dims = self._found.facts.dims_of(self.value(index))
        if dims is None or not all(dim.static for dim in dims.flat):
            return None
        if any(dim.deps for dim in dims.flat):
            self._found.pins.append((self.number, index, dims))
        return [dim.value for dim in dims.flat]

    def constant(self, index: int) -> NDArray[Any] | None:
        """The data of a constant input, read for its numbers and not cut."""
        self.seen.add(index)
        return constant_array(self.value(index))

    def tie(self, first: Labels, second: Labels) -> None:
        if len(first) != len(second):
            raise Decline(f"axes of {len(first)} and {len(second)} positions meet")
        self._found.atoms.tie(first, second)

    def tie_all(self, labels: Labels) -> None:
        self._found.atoms.tie_all(labels)

    def freeze(self, labels: Labels, reason: str = "") -> None:
        self._found.atoms.freeze(labels, reason or str(self))

    def frozen(self, count: int, reason: str = "") -> Labels:
        return self._found.atoms.frozen(count, SINGLE if count == 1 else reason or str(self))

    def fresh(self, count: int) -> Labels:
        """Labels of an axis that the node itself makes."""
        return self._found.atoms.new(count) if count > 1 else self.frozen(count)

    def free(self, labels: Labels) -> Labels:
        return self._found.atoms.free(labels)

    def roots(self, labels: Labels) -> Labels:
        return self._found.atoms.roots(labels)

    def emit(self, labels: Sequence[Labels], index: int = 0) -> None:
        """Sets the labels of an output."""
        if tuple(len(axis) for axis in labels) != self.out_shape(index):
            raise Decline("its output does not have the shape that was expected")
        self._found.labels[str(self.node.outputs[index].name)] = list(labels)

    def fix(self, change: Fix) -> None:
        """Registers what has to change in the node itself when channels are cut."""
        self._found.fixes.append((self.number, change))

    def rewrite(self, index: int, dims: list[Dim], axes: Sequence[Labels | None]) -> None:
        """Keeps an input that holds lengths true: each entry of `axes` is the length of those."""

        def change(editor: Editor, node: ir.Node) -> None:
            new = [
                None if not dim.static else dim.value if labels is None else editor.count(labels)
                for dim, labels in zip(dims, axes, strict=True)
            ]
            editor.set_ints(node, index, dims, new)

        self.fix(change)

    def mix(self, index: int, axes: Sequence[int], fill: float = 0.0, mean: bool = False) -> None:
        self._found.mixes.append(Mix(self.number, index, tuple(axes), fill, mean))

    def layer(self, layer: Layer) -> None:
        self._found.layers.append(layer)

    def balance(self, blocks: Sequence[Labels]) -> None:
        self._found.balances.append(Balance(tuple(blocks)))

    def slot(self, index: int) -> Slot:
        """The slot of a constant input (after `labels`)."""
        return self._sweep.slot_of(self, index)


Rule = Callable[[Op], None]


class Sweep:
    """Goes through the nodes in order and applies the rule of each operator.

    Args:
        exclude: what names nodes whose outputs stay whole; see `named_nodes`.
        whole_heads: whether a Reshape that splits features into heads leaves the heads to be cut,
            and not the dimensions of each.
    """

    def __init__(
        self,
        model: ir.Model,
        facts: Facts,
        exclude: Sequence[str] = (),
        whole_heads: bool = False,
    ) -> None:
        self.whole_heads = whole_heads
        self.found = Labelling(Atoms(), facts)
        self._model = model
        self._exclude = tuple(exclude)
        self._slots: dict[tuple[str, int, int], Slot] = {}
        self._read: dict[int, list[Slot]] = {}
        self.opset = default_opset(model)

    def run(self, rules: dict[str, Rule]) -> Labelling:
        atoms, graph = self.found.atoms, self._model.graph
        functions = {(f.domain, f.name) for f in self._model.functions.values()}
        for value in graph.inputs:
            shape = self.found.facts.shapes.get(str(value.name))
            if shape is not None:
                reason = f"graph input '{value.name}'"
                self.found.labels[str(value.name)] = [atoms.frozen(n, reason) for n in shape]
        for number, node in enumerate(graph):
            known = node.domain in DEFAULT_DOMAINS and (node.domain, node.op_type) not in functions
            self._visit(Op(self, number, node), rules.get(node.op_type) if known else None)
        for value in graph.outputs:
            self._keep(value, f"graph output '{value.name}'")
        return self.found

    def _visit(self, op: Op, rule: Rule | None) -> None:
        outputs = [value for value in op.node.outputs if value.name]
        if constant_tensor(op.node.outputs[0]) is not None:
            return
        before = self._extent()
        try:
            if all(value.name in self.found.facts.dims for value in outputs):
                for index, _ in enumerate(outputs):
                    op.emit([op.frozen(n, "a computed shape") for n in op.out_shape(index)], index)
            elif rule is None or next(subgraphs(op.node), None) is not None:
                raise Decline("channels are not followed through it")
            else:
                rule(op)
                self._keep_unseen(op)
                for value in outputs:
                    if value.name not in self.found.labels:
                        raise Decline(f"its output '{value.name}' is not followed")
        except Decline as reason:
            self._forget(before)
            self._barrier(op, f"{op} ({reason})")
        if any(is_named(op.node, pattern) for pattern in self._exclude):
            for value in outputs:
                self._keep(value, "the option 'exclude'")

    def _keep_unseen(self, op: Op) -> None:
        """Freezes the inputs that a rule had no use for."""
        for index, value in enumerate(op.node.inputs):
            if value is not None and index not in op.seen:
                self._keep(value, str(op))

    def _extent(self) -> tuple[int, ...]:
        return tuple(len(registered) for registered in self._registers())

    def _forget(self, extent: tuple[int, ...]) -> None:
        """Drops what a rule registered before it declined."""
        for kept, registered in zip(extent, self._registers(), strict=True):
            del registered[kept:]

    def _registers(self) -> tuple[list[Any], ...]:
        found = self.found
        return found.layers, found.mixes, found.balances, found.fixes

    def _barrier(self, op: Op, reason: str) -> None:
        """Freezes all that `op` touches; what it reads from around a subgraph included."""
        for index, value in enumerate(op.node.inputs):
            if value is None or constant_tensor(value) is not None:
                continue
            dims = self.found.facts.dims.get(str(value.name))
            if dims is not None and all(dim.static for dim in dims.flat):
                self.found.pins.append((op.number, index, dims))
            else:
                self._keep(value, reason)
        for slot in self._read.get(op.number, ()):
            for labels in slot.labels:
                self.found.atoms.freeze(labels, reason)
        for graph in subgraphs(op.node):
            for value in _captured(graph):
                self._keep(value, reason)
        for value in op.node.outputs:
            shape = self.found.facts.shapes.get(str(value.name))
            if shape is not None:
                atoms = self.found.atoms
                self.found.labels[str(value.name)] = [atoms.frozen(n, reason) for n in shape]

    def _keep(self, value: ir.Value, reason: str) -> None:
        """Freezes every axis of `value`. A constant needs no freezing: whoever reads another
        part of it gets a copy."""
        name = str(value.name)
        for labels in self.found.labels.get(name, ()):
            self.found.atoms.freeze(labels, reason)
        dims = self.found.facts.dims.get(name)
        for dim in [] if dims is None else dims.flat:
            self.freeze_deps(dim, reason)

    def freeze_deps(self, dim: Dim, reason: str) -> None:
        """Keeps the dimensions that `dim` was computed from."""
        for name, axis in sorted(dim.deps):
            labels = self.found.labels.get(name)
            if labels is not None:
                self.found.atoms.freeze(labels[axis], reason)

    def operand(self, op: Op, index: int) -> list[Labels]:
        value = op.value(index)
        name = str(value.name)
        if constant_tensor(value) is not None:
            return self._constant(op, index).labels
        dims = self.found.facts.dims.get(name)
        if dims is not None:
            if all(dim.static for dim in dims.flat):
                self.found.pins.append((op.number, index, dims))
            else:
                for dim in dims.flat:
                    self.freeze_deps(dim, f"{op} reads its length")
        labels = self.found.labels.get(name)
        if labels is None:
            raise Decline(f"the shape of '{name}' is not known")
        return labels

    def slot_of(self, op: Op, index: int) -> Slot:
        return self._slots[_slot_key(op, index)]

    def _constant(self, op: Op, index: int) -> Slot:
        key = _slot_key(op, index)
        slot = self._slots.get(key)
        if slot is None:
            atoms = self.found.atoms
            labels = [atoms.new(n) if n > 1 else atoms.frozen(n, SINGLE) for n in op.shape(index)]
            slot = Slot(key[0], labels)
            self._slots[key] = slot
            self.found.slots.append(slot)
        if (op.number, index) not in slot.uses:
            slot.uses.append((op.number, index))
            self._read.setdefault(op.number, []).append(slot)
        return slot


def _slot_key(op: Op, index: int) -> tuple[str, int, int]:
    name = str(op.value(index).name)
    own = sum(n > 1 for n in op.shape(index)) <= 1
    return (name, op.number, index) if own else (name, -1, -1)


def _captured(graph: ir.Graph) -> list[ir.Value]:
    """The values of graphs around `graph` that its nodes read, at any depth."""
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    inside = {id(v) for node in nodes for v in node.outputs}
    graphs = [graph, *(g for node in nodes for g in subgraphs(node))]
    inside |= {id(v) for g in graphs for v in (*g.inputs, *g.initializers.values())}
    read = [*(v for node in nodes for v in node.inputs), *(v for g in graphs for v in g.outputs)]
    return [v for v in read if v is not None and id(v) not in inside]
