"""Channels of zeros, where those that there are do not fill blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.pipeline.base import PassContext
from graphopt.rewriting import Rewriter
from graphopt_passes.keep_blocked.blocked import has_kernel
from graphopt_passes.keep_blocked.carrying import RULES
from graphopt_passes.keep_blocked.sharing import Group, Sharing

MOST_GROWTH = 0.1
"""By what share the weights may grow: they are read from memory, too."""


@dataclass(frozen=True)
class Padding:
    """What was padded."""

    groups: int
    notes: tuple[str, ...] = ()


@dataclass
class _Growth:
    """How a constant grows."""

    widths: list[tuple[int, int]]
    """As `numpy.pad` takes them."""
    fill: float


def pad_channels(model: ir.Model, context: PassContext) -> Padding:
    """Pads groups of channels of `model`, in place, to what there are blocked kernels for.

    Whoever sums over the channels that are added has weights of 0 for them, and what they hold is
    finite: all else that the model computes stays the same, to the order of sums.
    """
    at = Rewriter(model, context, touched=lambda node: None)
    groups = _worth(Sharing(at, RULES).groups(), at)
    if not groups:
        return Padding(0)
    growths = _growths(groups, at)
    growth = _added(growths) / _weights(model)
    count = f"{len(groups)} group{'s' if len(groups) > 1 else ''} of channels"
    if growth > MOST_GROWTH:
        reason = f"weights would grow by {growth:.0%}"
        return Padding(0, (f"{count} not padded to fill blocks, since {reason}",))
    for (node, index), grown in growths.items():
        _pad(node, index, grown, at)
    for group in groups:
        _state(group, at)
    return Padding(len(groups), (f"{count} padded to fill blocks: +{growth:.1%} weights",))


def _worth(groups: Iterable[Group], at: Rewriter) -> list[Group]:
    """Those that would be in blocks, but for the number of their channels.

    Where channels fill a block at least, kernels compute whole blocks in any case.
    """
    block = at.context.target.blocked_channels
    narrow = [group for group in groups if block <= group.channels < group.padded]
    padded = {value for group in narrow for value in group.values}
    # By images that have to be padded for a Conv that reads them to have a kernel: what it makes.
    made_of: dict[ir.Value | None, list[Group]] = {}
    for group in narrow:
        for maker in group.makers:
            if not has_kernel(maker, at):
                made_of.setdefault(maker.inputs[0], []).append(group)
    left_out = [value for value in made_of if value not in padded]
    while left_out:
        for group in made_of.get(left_out.pop(), ()):
            if group.values[0] in padded:
                padded.difference_update(group.values)
                left_out += group.values
    return [group for group in narrow if group.values[0] in padded]


def _growths(groups: Iterable[Group], at: Rewriter) -> dict[tuple[ir.Node, int], _Growth]:
    """How the constants grow that an input of a node is."""
    found: dict[tuple[ir.Node, int], _Growth] = {}
    for group in groups:
        for slot in group.slots:
            rank = at.rank(slot.node.inputs[slot.index])
            assert rank is not None
            fresh = _Growth([(0, 0)] * rank, slot.fill)
            growth = found.setdefault((slot.node, slot.index), fresh)
            growth.widths[slot.axis] = (0, group.padded - group.channels)
    return found


def _added(growths: dict[tuple[ir.Node, int], _Growth]) -> int:
    """How many bytes the constants grow by."""
    added = 0
    for (node, index), growth in growths.items():
        tensor = constant_tensor(node.inputs[index])
        assert tensor is not None
        sizes = zip(tensor.shape.numpy(), growth.widths, strict=True)
        grown = math.prod(size + width for size, (_, width) in sizes)
        added += (grown - tensor.size) * int(tensor.dtype.itemsize)
    return added


def _weights(model: ir.Model) -> int:
    """The bytes of all constants that nodes of the main graph read."""
    values = {value for node in model.graph for value in node.inputs}
    tensors = [constant_tensor(value) for value in values]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _pad(node: ir.Node, index: int, growth: _Growth, at: Rewriter) -> None:
    value = node.inputs[index]
    array = at.array(value)
    assert value is not None
    assert array is not None
    padded = np.pad(array, growth.widths, constant_values=growth.fill)
    at.replace_constant(node, index, padded, f"{value.name}_padded")


def _state(group: Group, at: Rewriter) -> None:
    """Corrects what the model states of how many channels there are."""
    for value in group.values:
        node = value.producer()
        for output in () if node is None else node.outputs:  # a pool may state those of indices
            if output.shape is not None and len(output.shape) > 1:
                output.shape = ir.Shape([output.shape[0], group.padded, *output.shape[2:]])
        shaping, conv = at.producer(value, "Reshape"), at.producer(value, "Conv")
        if shaping is not None:
            at.become(shaping, "Flatten", [shaping.inputs[0]])
        if conv is not None and conv.attributes.get_int("group", 1) > 1:
            conv.attributes["group"] = ir.AttrInt64("group", group.padded)
