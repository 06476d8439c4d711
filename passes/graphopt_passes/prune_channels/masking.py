"""The original model with the channels of a cut silenced: what the pruned model has to equal.

Whoever reads a cut channel reads nothing: the weights that read it are zeros, a sum or a product
over channels gets zeros, a maximum gets minus infinity, and a mean or a norm divides by the number
of channels that stay. The shapes stay those of the original.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import Names, add_initializer, constant_array, default_opset
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.doubles import NARROW
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.labelling import Labelling, Layer, Mix


def masked(model: ir.Model, found: Labelling, cut: Cut, *, wide: bool = False) -> ir.Model:
    """A copy of `model`, from which `found` was made, with the channels of `cut` silenced.

    Args:
        wide: whether `model` computes in float64 what it did in a narrower type for `found`.
    """
    copy = model.clone()
    writer = _Writer(copy, found, cut, wide)
    nodes = list(copy.graph)
    for layer in found.layers:
        writer.zero(nodes[layer.node], layer)
    for mix in found.mixes:
        writer.silence(nodes[mix.node], mix)
    return copy


NORMS = (
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
)
"""Their masks are not filled in: they are spelled out over the channels that stay."""


def _filling(fill: float, kind: np.dtype[Any]) -> NDArray[Any]:
    """`fill` in the type `kind`; an infinity in an integer type is its least or greatest value."""
    if kind.kind in "iu" and math.isinf(fill):
        limits = np.iinfo(kind)
        return np.asarray(limits.max if fill > 0 else limits.min, kind)
    return np.asarray(fill, kind)


class _Writer:
    def __init__(self, model: ir.Model, found: Labelling, cut: Cut, wide: bool) -> None:
        self._wide = wide
        self._graph = model.graph
        self._opset = default_opset(model)
        self._found = found
        self._cut = cut
        self._names = Names(model)

    def zero(self, node: ir.Node, layer: Layer) -> None:
        """Zeroes the slices of a weight that read what is cut."""
        labels = layer.slot.labels[layer.in_axis]
        if not self._cut.touches(labels):
            return
        array = constant_array(node.inputs[1])
        assert array is not None
        array = np.moveaxis(array.copy(), layer.in_axis, 0)
        array[~self._cut.keep(labels)] = 0
        node.replace_input_with(1, self._constant(np.moveaxis(array, 0, layer.in_axis)))

    def silence(self, node: ir.Node, mix: Mix) -> None:
        """Makes one input of `node` hold what does not count, at what is cut."""
        value = node.inputs[mix.input]
        assert value is not None
        labels = self._labels(mix, str(value.name))
        cut_axes = [axis for axis in mix.axes if self._cut.touches(labels[axis])]
        if not cut_axes:
            return
        if node.op_type in NORMS:
            self._normalize(node, value, mix, labels)
            return
        fill = self._constant(_filling(mix.fill, self._type(value)))
        hidden = value
        for axis in cut_axes:
            mask = self._mask(labels, axis)
            hidden = self._insert(node, "Where", mask, hidden, fill)
        node.replace_input_with(mix.input, hidden)
        if mix.mean:
            self._scale_after(node, self._surplus(labels, mix.axes), self._type(value))

    def _labels(self, mix: Mix, name: str) -> list[Labels]:
        if name in self._found.labels:
            return self._found.labels[name]
        slots = [slot for slot in self._found.slots if (mix.node, mix.input) in slot.uses]
        return slots[0].labels

    def _type(self, value: ir.Value) -> np.dtype[Any]:
        kind = self._found.facts.types[str(value.name)]
        return np.dtype(np.float64) if self._wide and kind in NARROW else kind.numpy()

    def _surplus(self, labels: list[Labels], axes: tuple[int, ...]) -> float:
        """By how much a mean over all positions is too small if the cut ones hold zeros."""
        return math.prod(len(labels[axis]) / self._cut.count(labels[axis]) for axis in axes)

    def _mask(self, labels: list[Labels], axis: int) -> ir.Value:
        keep = self._cut.keep(labels[axis])
        return self._constant(keep.reshape(-1, *[1] * (len(labels) - 1 - axis)))

    def _scale_after(self, node: ir.Node, factor: float, kind: np.dtype[Any]) -> None:
        """Multiplies the output of `node`, which keeps its name."""
        output = node.outputs[0]
        name = output.name
        scaled = ir.node("Mul", [output, self._constant(np.asarray(factor, kind))])
        self._graph.insert_after(node, scaled)
        self._take_name(output, scaled, name)

    def _take_name(self, output: ir.Value, node: ir.Node, name: str | None) -> None:
        """Lets the output of `node` stand for `output`, under its name."""
        new = node.outputs[0]
        new.type, new.shape = output.type, output.shape
        for user, index in list(output.uses()):
            if user is not node:
                user.replace_input_with(index, new)
        for index, value in enumerate(self._graph.outputs):
            if value is output:
                self._graph.outputs[index] = new
        output.name = self._names.fresh(f"{name}_unscaled")
        new.name = name

    def _normalize(self, node: ir.Node, x: ir.Value, mix: Mix, labels: list[Labels]) -> None:
        """Spells a norm out, over the channels that stay."""
        kind, rank = self._type(x), len(labels)
        epsilon = self._constant(np.asarray(node.attributes.get_float("epsilon", 1e-5), kind))
        zero = self._constant(np.zeros((), kind))
        factor = self._constant(np.asarray(self._surplus(labels, mix.axes), kind))
        masks = [self._mask(labels, a) for a in mix.axes if self._cut.touches(labels[a])]
        axes, whole = mix.axes, None
        groups = node.attributes.get_int("num_groups", 0)
        if groups:
            # As [batch, groups, positions]; space may have any size.
            axes, shape = (2,), self._ints(0, groups, -1)
            whole = self._insert(node, "Shape", x)
            spread = [self._insert(node, "Expand", mask, whole) for mask in masks]
            masks = [self._insert(node, "Reshape", mask, shape) for mask in spread]
            x = self._insert(node, "Reshape", x, shape)

        def hide(value: ir.Value) -> ir.Value:
            for mask in masks:
                value = self._insert(node, "Where", mask, value, zero)
            return value

        def mean(value: ir.Value) -> ir.Value:
            return self._insert(node, "Mul", self._mean(node, value, axes), factor)

        centred = hide(x)
        if node.op_type != "RMSNormalization":
            centred = hide(self._insert(node, "Sub", centred, mean(centred)))
        square = self._insert(node, "Mul", centred, centred)
        power = self._insert(node, "Add", mean(square), epsilon)
        result = self._insert(node, "Div", centred, self._insert(node, "Sqrt", power))
        if whole is not None:
            result = self._insert(node, "Reshape", result, whole)
        for op_type, value in zip(("Mul", "Add"), node.inputs[1:], strict=False):
            if value is not None:
                if node.op_type in ("GroupNormalization", "InstanceNormalization"):
                    shape = self._ints(-1, *[1] * (rank - 2))
                    value = self._insert(node, "Reshape", value, shape)
                result = self._insert(node, op_type, result, value)
        producer = result.producer()
        assert producer is not None
        self._take_name(node.outputs[0], producer, node.outputs[0].name)

    def _ints(self, *numbers: int) -> ir.Value:
        return self._constant(np.array(numbers, dtype=np.int64))

    def _mean(self, node: ir.Node, value: ir.Value, axes: tuple[int, ...]) -> ir.Value:
        if self._opset < 18:
            return self._insert(node, "ReduceMean", value, axes=list(axes))
        return self._insert(node, "ReduceMean", value, self._ints(*axes))

    def _constant(self, array: NDArray[Any]) -> ir.Value:
        name = self._names.fresh("masking_constant")
        return add_initializer(self._graph, name, np.ascontiguousarray(array).reshape(array.shape))

    def _insert(
        self, before: ir.Node, op_type: str, *inputs: ir.Value | None, axes: list[int] | None = None
    ) -> ir.Value:
        attributes = None if axes is None else {"axes": axes}
        node = ir.node(op_type, inputs, attributes)
        node.outputs[0].name = self._names.fresh("masking")
        self._graph.insert_before(before, node)
        return node.outputs[0]
