"""Images that have the same channels: what has to grow with them when one grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.rewriting import Rewriter


@dataclass(frozen=True)
class Slot:
    """An axis of a constant, with something for each channel."""

    node: ir.Node
    index: int
    axis: int
    fill: float = 0.0
    """What it holds for a channel that does not count."""


@dataclass
class Group:
    """Values with the same channels, on their axis 1, and the constants that know how many.

    Each channel is made by a Conv, and summed over with weights of its own by whoever reads it.
    """

    channels: int
    values: list[ir.Value] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    makers: list[ir.Node] = field(default_factory=list)
    """The Convs that make them of other channels, as depthwise ones do not."""
    multiple: int = 1
    """What the number of channels should be a multiple of."""

    @property
    def padded(self) -> int:
        """How many channels there should be."""
        return math.ceil(self.channels / self.multiple) * self.multiple


class Sharing:
    """The groups of the main graph, as rules tell of its nodes.

    Whatever no rule tells of is a barrier: a value that another node reads or makes, or that is an
    input or output of the graph, has channels that stay.

    Args:
        at: what is known of the model.
        rules: by operator, what tells a `Sharing` of a node; it does not if it is not sure.
    """

    def __init__(self, at: Rewriter, rules: dict[str, Callable[[ir.Node, Sharing], None]]) -> None:
        self.at = at
        self._leader: dict[ir.Value, ir.Value] = {}
        self._made: set[ir.Value] = set()
        self._makers: list[ir.Node] = []
        self._read: set[tuple[ir.Node, int]] = set()
        self._slots: list[tuple[ir.Value, Slot]] = []
        self._wishes: list[tuple[ir.Value, int]] = []
        for node in at.model.graph:
            rule = rules.get(node.op_type)
            if rule is not None and at.is_op(node, node.op_type) and at.is_lone(node):
                rule(node, self)

    def channels(self, value: ir.Value | None) -> int | None:
        """How many channels an image, or a vector of what was one, has; None if not known."""
        dims = self.at.dims(value)
        if dims is None or len(dims) not in (2, 4):
            return None
        return dims[1] if isinstance(dims[1], int) else None

    def makes(self, node: ir.Node) -> None:
        """The output of `node` has channels of its own."""
        self._made.add(node.outputs[0])
        self._makers.append(node)
        self._find(node.outputs[0])

    def reads(self, node: ir.Node, index: int = 0) -> None:
        """What `node` gives does not have the channels of its input `index`."""
        value = node.inputs[index]
        assert value is not None
        self._read.add((node, index))
        self._find(value)

    def carries(self, node: ir.Node, *indices: int) -> None:
        """The output of `node` has the channels of these inputs; channel by channel."""
        for index in indices:
            self.reads(node, index)
            value = node.inputs[index]
            assert value is not None
            self._leader[self._find(value)] = self._find(node.outputs[0])
        self._made.add(node.outputs[0])

    def holds(self, value: ir.Value, slot: Slot) -> None:
        """`slot` has something for each channel of `value`."""
        self._slots.append((value, slot))

    def wants(self, value: ir.Value, multiple: int) -> None:
        """The number of channels of `value` should be a multiple of this."""
        self._wishes.append((value, multiple))

    def groups(self) -> Iterator[Group]:
        """The groups without a barrier, in the order of the nodes."""
        found: dict[ir.Value, Group] = {}
        barred: set[ir.Value] = set()
        for value in self._leader:
            leader = self._find(value)
            group = found.setdefault(leader, Group(self.channels(value) or 0))
            group.values.append(value)
            if not self._is_inside(value) or self.channels(value) != group.channels:
                barred.add(leader)
        for node in self._makers:
            found[self._find(node.outputs[0])].makers.append(node)
        for value, slot in self._slots:
            found[self._find(value)].slots.append(slot)
        for value, multiple in self._wishes:
            group = found[self._find(value)]
            group.multiple = math.lcm(group.multiple, multiple)
        return (group for leader, group in found.items() if leader not in barred)

    def _is_inside(self, value: ir.Value) -> bool:
        """Whether rules have told of all that makes and reads `value`."""
        if value not in self._made or value.is_graph_output():
            return False
        return all((use.node, use.idx) in self._read for use in value.uses())

    def _find(self, value: ir.Value) -> ir.Value:
        """The value that stands for all that `value` shares its channels with."""
        path = [value]
        while (above := self._leader.setdefault(path[-1], path[-1])) is not path[-1]:
            path.append(above)
        self._leader.update(dict.fromkeys(path, path[-1]))
        return path[-1]
