"""Dropping a block: its branch gives way to its mean, or to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Samples
from graphopt.ir import Names, add_constant
from graphopt.ir.facts import Facts
from graphopt.progress import Progress
from graphopt.runtime.tap import require_finite, tap
from graphopt_passes.prune_blocks.blocks import Block

Array = NDArray[Any]

BATCH = 16


def drop(model: ir.Model, block: Block, fill: Array | None) -> ir.Model:
    """A copy of `model` without `block`; what only its branch needed is left over, unused.

    Args:
        fill: a constant that the sum gets in place of the branch, of the same type; its rank is
            that of the branch, and each of its dimensions is one or that of the branch.
    """
    copy = model.clone()
    add = node_of(copy, block.add)
    if fill is not None:
        name = Names(copy).fresh(f"{block.branch}.mean")
        add.replace_input_with(block.index, add_constant(copy, name, fill, add))
        return copy
    rest = [value for index, value in enumerate(add.inputs) if index != block.index]
    if len(rest) > 1:
        for index, value in enumerate(rest):
            add.replace_input_with(index, value)
        add.resize_inputs(len(rest))
        return copy
    (output,) = add.outputs
    if output.is_graph_output():
        _become_identity(add, rest[0])
    else:
        assert rest[0] is not None
        output.replace_all_uses_with(rest[0])
    return copy


def left_by(model: ir.Model, block: Block) -> str:
    """The name of what is left of the sum of `block` if nothing takes the place of its branch."""
    add = node_of(model, block.add)
    rest = [value for index, value in enumerate(add.inputs) if index != block.index]
    if len(rest) > 1 or add.outputs[0].is_graph_output():
        return block.add
    assert rest[0] is not None
    return str(rest[0].name)


def node_of(model: ir.Model, output: str) -> ir.Node:
    """The node of the main graph that gives the value `output`."""
    return next(n for n in model.graph if any(v.name == output for v in n.outputs))


def _become_identity(node: ir.Node, value: ir.Value | None) -> None:
    """Makes the output of `node`, an output of the graph, a copy of `value`."""
    graph, (old,) = node.graph, node.outputs
    assert graph is not None
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    identity = ir.Node("", "Identity", [value], outputs=[new], name=node.name)
    graph.insert_before(node, identity)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def branch_means(
    model: ir.Model, blocks: Sequence[Block], facts: Facts, samples: Samples, progress: Progress
) -> dict[str, Array]:
    """What stands for the branch of each of `blocks`, by its name: its mean over the samples.

    The mean is taken over all axes but one, the one along which means explain most: the channels.
    It is one of fixed length, and not the first, which is the batch.

    Args:
        facts: of `model`.

    Raises:
        GraphoptError: if a branch is NaN or infinite somewhere.
    """
    names = dict.fromkeys(block.branch for block in blocks)
    values = ir.convenience.create_value_mapping(model.graph)
    means = {name: _Mean(facts.dims(values[name])) for name in names}
    runs = tap(model, names, samples, batch=BATCH, progress=progress, description="branch means")
    for found in runs:
        for name, array in found.items():
            require_finite(name, array)
            means[name].add(array)
    return {name: mean.result() for name, mean in means.items()}


class _Mean:
    """The sums of arrays along each axis that may be that of the channels."""

    def __init__(self, dims: Sequence[Any] | None) -> None:
        self._axes = [axis for axis, n in enumerate(dims or ()) if axis and isinstance(n, int)]
        self._sums: dict[int | None, Array] = {}
        self._count = 0

    def add(self, array: Array) -> None:
        wide = array.astype(np.float64)
        self._dtype, self._rank = array.dtype, array.ndim
        self._count += array.size
        for axis in (None, *self._axes):
            others = tuple(i for i in range(array.ndim) if i != axis)
            total = wide.sum(axis=others)
            self._sums[axis] = self._sums.get(axis, np.zeros_like(total)) + total

    def result(self) -> Array:
        means = {a: total * total.size / max(self._count, 1) for a, total in self._sums.items()}
        axis = max(means, key=lambda a: float(np.square(means[a]).mean()))
        shape = [-1 if i == axis else 1 for i in range(self._rank)]
        return np.asarray(means[axis].reshape(shape or ()).astype(self._dtype))
