"""Residual blocks: where a value is added to what layers compute from that same value.

A sum is a tree of Add and Sum nodes, the inner ones of which nobody else reads, so that
x + attention(x) + mlp(x) is one sum however it is bracketed. One of its terms is the skip: a value
that goes in as it is. An operand without the skip is the branch of a block if the nodes that
compute it, and that nobody else needs, hold a layer that depends on the skip. Whatever else they
read (a mask, the angles of rotary embeddings, an encoder's states) does not matter: a block is
dropped by leaving its operand out of the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import is_standard, label, replaced_operators, sole_use, subgraphs
from graphopt.ir.facts import Facts
from graphopt.pipeline.base import Declined
from graphopt_passes.eliminate_dead.unused import Functions
from graphopt_passes.prune_blocks.regions import Region, Regions

SUMS = ("Add", "Sum")
KIND = "residual-block"
"""What a near miss is called."""


@dataclass(frozen=True)
class Block:
    """A residual block.

    Attributes:
        add: the name of the output of the Add (or Sum) whose operand `index` is the branch.
        index: which of its inputs that is.
        name: what to call the block: the node's name.
        branch: the name of the operand.
        nodes: what computes the branch and nothing else, in the order of the graph.
        alike: pairs of values that must have one shape, and are not known to.
    """

    add: str
    index: int
    name: str
    branch: str
    nodes: tuple[ir.Node, ...]
    alike: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Sum:
    """A tree of sums: its nodes, the root first, and its terms."""

    nodes: tuple[ir.Node, ...]
    terms: tuple[ir.Value, ...]

    @property
    def root(self) -> ir.Node:
        return self.nodes[0]

    def holds(self, operand: ir.Value, term: ir.Value) -> bool:
        """Whether `operand`, of one of the nodes, is `term` or a sum with it."""
        producer = operand.producer()
        if operand in self.terms or producer is None:
            return operand is term
        return any(value is not None and self.holds(value, term) for value in producer.inputs)


def find_blocks(model: ir.Model, facts: Facts) -> tuple[list[Block], list[Declined]]:
    """The residual blocks of the main graph of `model`, in its order, and the near misses.

    A block may hold others.
    """
    finder = _Finder(model, facts)
    return finder.run(), list(finder.declined.values())


class _Finder:
    def __init__(self, model: ir.Model, facts: Facts) -> None:
        self._graph = model.graph
        self._facts = facts
        self._functions = Functions(model)
        self._regions = Regions(model, facts, self._functions)
        self._sums = tuple(op for op in SUMS if op not in replaced_operators(model))
        self.declined: dict[ir.Node, Declined] = {}

    def run(self) -> list[Block]:
        found: list[Block] = []
        for node in self._graph:
            tree = self._tree(node)
            if tree is None:
                continue
            blocks = list(self._blocks(tree))
            found += blocks
            if not blocks and tree.root not in self.declined:
                self._explain(tree)
        return found

    def _tree(self, root: ir.Node) -> _Sum | None:
        """The sum that ends with `root`, if one does."""
        if not self._is_sum(root) or self._is_inner(root):
            return None
        known = (self._facts.dtype(value) for value in (*root.outputs, *root.inputs))
        dtype = next((dtype for dtype in known if dtype is not None), None)
        if dtype is None or not dtype.is_floating_point():
            return None
        nodes, terms = [root], []
        for node in nodes:
            for value in node.inputs:
                inner = None if value is None else value.producer()
                if inner is not None and self._is_sum(inner) and self._is_inner(inner):
                    nodes.append(inner)
                elif value is not None and not self._regions.is_fixed(value):
                    terms.append(value)
        return _Sum(tuple(nodes), tuple(dict.fromkeys(terms)))

    def _is_sum(self, node: ir.Node) -> bool:
        """Whether `node` adds values that vary. A bias is part of its layer."""
        if not is_standard(node, *self._sums) or node.graph is not self._graph:
            return False
        given = {value for value in node.inputs if value is not None}
        return sum(not self._regions.is_fixed(value) for value in given) > 1

    def _is_inner(self, node: ir.Node) -> bool:
        """Whether another sum alone reads the sum `node`."""
        reader = sole_use(node.outputs[0])
        return reader is not None and self._is_sum(reader)

    def _blocks(self, tree: _Sum) -> Iterator[Block]:
        seen: set[ir.Value] = set()
        for skip in tree.terms:
            others = [term for term in tree.terms if term is not skip]
            if not self._regions.is_read_twice(skip):
                continue
            dependent = self._regions.dependent(self._regions.grow(others, tree.nodes), skip)
            if not any(map(self._regions.is_layer, dependent)):
                continue
            for node in tree.nodes:
                for index, operand in enumerate(node.inputs):
                    if operand is None or operand in seen or tree.holds(operand, skip):
                        continue
                    region = self._regions.grow([operand], [node])
                    if any(self._regions.is_layer(n) for n in region.nodes if n in dependent):
                        seen.add(operand)
                        yield from self._block(tree.root, skip, node, index, region)

    def _block(
        self, root: ir.Node, skip: ir.Value, add: ir.Node, index: int, region: Region
    ) -> Iterator[Block]:
        """The block whose branch, the operand `index` of `add`, is `region`, if it can go."""
        branch = add.inputs[index]
        assert branch is not None
        sums = root.outputs[0], add.outputs[0]
        rest = [value for place, value in enumerate(add.inputs) if place != index]
        # What carries the skip comes first, and is enough.
        rest.sort(key=lambda value: not self._may_be_alike(value, sums[1]))
        pairs = ((skip, sums[0]), (rest[0], sums[1]))
        if not all(self._may_be_alike(*pair) for pair in pairs):
            self._decline(add, f"'{skip.name}' does not have the shape of the sum")
            return
        for node in region.nodes:
            if next(subgraphs(node), None) is not None:
                self._decline(add, f"its branch holds {node.op_type} '{label(node)}'")
                return
            if not self._functions.is_pure(node):
                what = f"{node.op_type} '{label(node)}' of domain '{node.domain}'"
                self._decline(add, f"{what} in its branch may do more than compute")
                return
        open_pairs = dict.fromkeys(
            (str(one.name), str(other.name))
            for one, other in pairs
            if one is not None and self._facts.dims(one) != self._facts.dims(other)
        )
        yield Block(
            str(add.outputs[0].name),
            index,
            label(add),
            str(branch.name),
            region.nodes,
            tuple(open_pairs),
        )

    def _may_be_alike(self, one: ir.Value | None, other: ir.Value) -> bool:
        """Whether nothing that is known speaks against one shape of both."""
        mine, its = self._facts.dims(one), self._facts.dims(other)
        if one is None or mine is None or its is None:
            return one is not None
        both = zip(mine, its, strict=False)
        numbers = [a == b for a, b in both if isinstance(a, int) and isinstance(b, int)]
        return len(mine) == len(its) and all(numbers)

    def _explain(self, tree: _Sum) -> None:
        """Declines a sum that a reader would take for the end of a residual block."""
        for skip in tree.terms:
            others = [term for term in tree.terms if term is not skip]
            if not self._regions.is_read_twice(skip) or not self._may_be_alike(
                skip, tree.root.outputs[0]
            ):
                continue
            seen = self._regions.seen_between(self._regions.grow(others, tree.nodes), skip)
            if seen is not None:
                self._decline(tree.root, seen)
                return
        regions = [self._regions.grow([term], tree.nodes) for term in tree.terms]
        layers = [[n for n in r.nodes if self._regions.is_layer(n)] for r in regions]
        shared = set(regions[0].entries).intersection(*(r.entries for r in regions[1:]))
        if all(layers) and shared:
            shortest = min(layers, key=len)[-1]
            self._decline(
                tree.root, f"the skip is no identity: it goes through '{label(shortest)}'"
            )

    def _decline(self, node: ir.Node, reason: str) -> None:
        self.declined.setdefault(node, Declined.of(KIND, node, reason))
