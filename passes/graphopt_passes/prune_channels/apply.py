"""Carrying a cut out: constants, attributes and shapes of the graph follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.ir import (
    Names,
    add_initializer,
    constant_array,
    default_opset,
    drop_unused_initializer,
    infer_shapes,
    is_standard,
)
from graphopt.reconstruction import set_constant
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.dims import Dim, values
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.labelling import Labelling, Slot


def cut_channels(model: ir.Model, found: Labelling, cut: Cut) -> ir.Model:
    """A copy of `model`, from which `found` was made, without the channels of `cut`."""
    pruned = model.clone()
    Editor(pruned, found, cut).run()
    return pruned


class Editor:
    """Changes a clone of the model that `found` was made from."""

    def __init__(self, model: ir.Model, found: Labelling, cut: Cut) -> None:
        self.opset = default_opset(model)
        self._model = model
        self._found = found
        self._cut = cut
        self._names = Names(model)

    def keep(self, labels: Labels) -> NDArray[np.bool_]:
        """For each position of an axis, whether it stays."""
        return self._cut.keep(labels)

    def count(self, labels: Labels) -> int:
        """How many positions of an axis stay."""
        return self._cut.count(labels)

    def set_constant(self, node: ir.Node, index: int, array: NDArray[Any]) -> None:
        """Gives `node` a constant input of its own, in the element type of what it replaces."""
        old = node.inputs[index] if index < len(node.inputs) else None
        name = str(old.name) if old is not None else f"{node.outputs[0].name}_sizes"
        kind = self._found.facts.types.get(name, ir.DataType.INT64)
        array = np.asarray(array).astype(kind.numpy())
        set_constant(self._names, node, index, array, name)

    def set_ints(
        self,
        node: ir.Node,
        index: int,
        dims: list[Dim] | None,
        new: Sequence[int | None],
        *,
        deduce: bool = False,
    ) -> None:
        """Makes a one-dimensional integer input hold `new`, where it does not do so already.

        Args:
            dims: what it holds now; None if there is no such input yet.
            new: None for an element that is to be computed as it is now.
            deduce: whether -1 may stand for such an element, if it is the only one.
        """
        if dims is not None:
            pairs = zip(new, dims, strict=True)
            same = all(entry == dim.value for entry, dim in pairs if dim.static)
            if same and not any(self._moves(dim) for dim in dims):
                return
        if deduce and new.count(None) == 1 and -1 not in new and 0 not in new:
            new = [-1 if n is None else n for n in new]
        fixed = np.array([0 if n is None else n for n in new], dtype=np.int64)
        old = node.inputs[index] if index < len(node.inputs) else None
        self.set_constant(node, index, fixed)
        if None in new:
            assert old is not None
            self._mix_in(node, index, old, [n is None for n in new])

    def _mix_in(self, node: ir.Node, index: int, computed: ir.Value, free: list[bool]) -> None:
        graph, fixed = self._model.graph, node.inputs[index]
        assert fixed is not None
        mask = add_initializer(graph, self._names.fresh(f"{fixed.name}_mask"), np.array(free))
        where = ir.node(
            "Where", [mask, computed, fixed], name=self._names.fresh(f"{fixed.name}_join")
        )
        where.outputs[0].name = self._names.fresh(f"{fixed.name}_joined")
        where.outputs[0].type = fixed.type
        graph.insert_before(node, where)
        node.replace_input_with(index, where.outputs[0])

    def _moves(self, dim: Dim) -> bool:
        """Whether `dim` is computed from a length that changes."""
        return any(
            self._cut.touches(self._found.labels[name][axis])
            for name, axis in dim.deps
            if name in self._found.labels
        )

    def run(self) -> None:
        nodes = list(self._model.graph)
        by_value: dict[str, list[Slot]] = {}
        for slot in self._found.slots:
            by_value.setdefault(slot.name, []).append(slot)
        for slots in by_value.values():
            self._cut_constant(nodes, slots)
        for number, change in self._found.fixes:
            change(self, nodes[number])
        for number, index, dims in self._found.pins:
            if any(self._moves(dim) for dim in dims.flat):
                self.set_constant(nodes[number], index, values(dims))
        self._drop_dead(nodes)
        self._state_shapes()
        infer_shapes(self._model)

    def _state_shapes(self) -> None:
        """Corrects what the model states of the values that have changed."""
        for node in self._model.graph:
            for value in node.outputs:
                labels = self._found.labels.get(str(value.name), [])
                if any(self._cut.touches(axis) for axis in labels):
                    value.type = value.type or ir.TensorType(
                        self._found.facts.types[str(value.name)]
                    )
                    symbols = self._found.facts.symbols[str(value.name)]
                    value.shape = ir.Shape(
                        [
                            self.count(axis) if isinstance(symbol, int) else symbol
                            for axis, symbol in zip(labels, symbols, strict=True)
                        ]
                    )

    def _cut_constant(self, nodes: list[ir.Node], slots: list[Slot]) -> None:
        """Gives each use of a constant the part that it needs; equal parts are shared."""
        number, index = slots[0].uses[0]
        value = nodes[number].inputs[index]
        array = constant_array(value)
        assert value is not None
        assert array is not None
        parts: dict[bytes, ir.Value | None] = {}
        pending = []
        for slot in slots:
            keeps = [self.keep(labels) for labels in slot.labels]
            if not all(keep.all() for keep in keeps):
                pending.append((slot, keeps))
        moved = {use for slot, _ in pending for use in slot.uses}
        others = len(value.uses()) - len(moved)
        in_place = value.is_initializer() and not value.is_graph_output() and others == 0
        for slot, keeps in pending:
            key = b"|".join(keep.tobytes() for keep in keeps)
            if key not in parts:
                part = np.ascontiguousarray(array[np.ix_(*keeps)])
                if in_place and not parts:
                    value.const_value = ir.tensor(part, name=value.name)
                    value.shape = ir.Shape(part.shape)
                    parts[key] = value
                else:
                    name = self._names.fresh(str(value.name))
                    parts[key] = add_initializer(self._model.graph, name, part)
            for number, index in slot.uses:
                nodes[number].replace_input_with(index, parts[key])

    def _drop_dead(self, nodes: list[ir.Node]) -> None:
        """Removes shape arithmetic and Constant nodes that nothing reads any more."""
        for node in reversed(nodes):
            computes_shape = all(v.name in self._found.facts.dims for v in node.outputs)
            if not computes_shape and not is_standard(node, "Constant"):
                continue
            if any(value.uses() or value.is_graph_output() for value in node.outputs):
                continue
            inputs = list(node.inputs)
            self._model.graph.remove(node, safe=True)
            for value in inputs:
                drop_unused_initializer(value)
