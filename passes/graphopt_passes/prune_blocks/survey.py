"""The blocks of a model that can be dropped, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.errors import GraphoptError
from graphopt.ir import constant_tensor, measure
from graphopt.ir.facts import Facts
from graphopt.pipeline.base import Declined
from graphopt.runtime.session import Session
from graphopt.runtime.tap import observed_shapes, tapped
from graphopt_passes.prune_blocks.blocks import KIND, Block, find_blocks
from graphopt_passes.prune_blocks.dropping import node_of

LOOKED_AT = 2
"""Samples that tell whether two values have one shape, where that is not certain."""


@dataclass(frozen=True)
class Priced:
    """A block and what it costs.

    Attributes:
        macs: multiply-accumulates for one sample; None if a shape is not known.
        parameters: elements of the constants that go with it.
    """

    block: Block
    macs: int | None
    parameters: int


class Survey:
    """Finds the blocks of a model, and of what is left of it, without those that are excluded."""

    def __init__(self, model: ir.Model, samples: Samples, excluded: set[ir.Node]) -> None:
        """Starts from `model`.

        Args:
            samples: the first of them settle what is not certain about shapes.
            excluded: nodes of `model` that are to stay.

        Raises:
            GraphoptError: if there are no samples, or ONNX Runtime cannot run the model on them.
        """
        specs = input_specs(model)
        feed = next((feed for feed, _ in batches(samples, specs, LOOKED_AT, LOOKED_AT)), None)
        if feed is None:
            raise GraphoptError("holds no samples", where=samples.description)
        self._feed: Feed = feed
        batched = all(spec.batched and not spec.static_batch for spec in specs)
        self._one = {name: a[:1] for name, a in feed.items()} if batched else feed
        self._excluded = {str(v.name) for node in excluded for v in node.outputs}

    def blocks(
        self, model: ir.Model, facts: Facts | None = None
    ) -> tuple[list[Block], list[Declined]]:
        """The blocks of `model`, and the sums that are none although they look like it."""
        found, declined = find_blocks(model, facts or Facts(model))
        pairs = [pair for block in found for pair in block.alike]
        shapes = self._shapes(model, dict.fromkeys(name for pair in pairs for name in pair))
        kept = []
        for block in found:
            unlike = next((p for p in block.alike if shapes[p[0]] != shapes[p[1]]), None)
            if unlike is not None:
                reason = f"'{unlike[0]}' does not have the shape of '{unlike[1]}' on the samples"
                declined.append(Declined.of(KIND, node_of(model, block.add), reason))
            elif self._is_excluded(model, block):
                declined.append(Declined.of(KIND, node_of(model, block.add), "it is excluded"))
            else:
                kept.append(block)
        return kept, declined

    def priced(self, model: ir.Model, blocks: Sequence[Block], facts: Facts) -> list[Priced]:
        """`blocks` of `model` with their cost."""
        cost = measure(model, facts=facts)
        if cost.unknown:
            cost = measure(model, observed_shapes(model, cost.unknown, self._one), facts)
        macs = {node: row.macs for node, row in zip(model.graph, cost.per_node, strict=True)}
        result = []
        for block in blocks:
            counts = [macs[node] for node in block.nodes]
            known = [count for count in counts if count is not None]
            total = sum(known) if len(known) == len(counts) else None
            result.append(Priced(block, total, _parameters(block)))
        return result

    def _shapes(self, model: ir.Model, names: dict[str, None]) -> dict[str, tuple[int, ...]]:
        if not names:
            return {}
        session = Session(tapped(model, names))
        values = session.run({name: self._feed[name] for name in session.inputs})
        return {name: value.shape for name, value in values.items()}

    def _is_excluded(self, model: ir.Model, block: Block) -> bool:
        nodes = [node_of(model, block.add), *block.nodes]
        return any(str(v.name) in self._excluded for node in nodes for v in node.outputs)


def _parameters(block: Block) -> int:
    """Elements of the constants that only nodes of `block` read."""
    inside = set(block.nodes)
    held = {
        value: tensor.size
        for node in block.nodes
        for value in node.inputs
        if value is not None and (tensor := constant_tensor(value)) is not None
        if not value.is_graph_output() and all(use.node in inside for use in value.uses())
    }
    return sum(held.values())
