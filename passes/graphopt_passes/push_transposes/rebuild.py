"""Rewriting the chosen nodes of a region so that they do without its Transposes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt_passes.push_transposes.layouts import laid_out
from graphopt_passes.push_transposes.perms import Perm, composed, inverse, is_identity
from graphopt_passes.push_transposes.region import Region


class Rebuild:
    """Makes new nodes beside the old ones, then lets what needs the old layout use Transposes."""

    def __init__(self, region: Region, chosen: set[ir.Node], at: Rewriter) -> None:
        self._region, self._at = region, at
        self._chosen = chosen
        self._nodes = [node for node in region.nodes if node in chosen]
        self._ends = [node for node in region.ends if node in chosen]
        self._without: dict[ir.Value, ir.Value] = {}
        self._order: list[ir.Node] = []

    def run(self) -> None:
        for node in self._nodes:
            self._build(node)
        for node in self._ends:
            self._end(node)
        for node in self._order:
            for value in node.outputs:
                self._restore(value, node)
        for node in reversed(self._order):
            for value in node.outputs:
                self._at.release(value)

    def _build(self, node: ir.Node) -> None:
        """Makes the counterpart of `node`, after those of what it uses."""
        pending = [node]
        while pending:
            node = pending[-1]
            before = [value.producer() for value in node.inputs if value in self._region.perms]
            missing = [
                n
                for n in before
                if n in self._region.nodes
                and n in self._chosen
                and n.outputs[0] not in self._without
            ]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            if node.outputs[0] not in self._without:
                self._make(node)

    def _make(self, node: ir.Node) -> None:
        layout, at = self._region.nodes[node], self._at
        inputs = list(node.inputs)
        for index, perm in enumerate(layout.inputs):
            value = node.inputs[index]
            if value is not None and perm is not None:
                inputs[index] = self._operand(value, perm, node)
        for index, items in layout.constants.items():
            old = at.array(inputs[index]) if index < len(inputs) else None
            dtype = np.int64 if old is None else old.dtype
            inputs.extend([None] * (index + 1 - len(inputs)))
            name = f"{node.outputs[0].name}_moved_{index}"
            inputs[index] = at.constant(np.array(items, dtype), name, node)
        made = at.insert_node(
            node,
            node.op_type,
            inputs,
            {**node.attributes, **layout.attributes},
            base=f"{node.outputs[0].name}_moved",
            outputs=len(node.outputs),
        )
        made.doc_string = node.doc_string
        made.metadata_props.update(node.metadata_props)
        self._without.update(zip(node.outputs, made.outputs, strict=True))
        self._order.append(node)

    def _operand(self, value: ir.Value, perm: Perm, node: ir.Node) -> ir.Value:
        """The v of which `value` is Transpose(v, perm)."""
        if value in self._without:
            return self._without[value]
        array = self._at.array(value)
        if array is not None:
            return self._at.constant(laid_out(array, perm), f"{value.name}_moved", node)
        self._without[value] = made = self._beginning(value, perm)
        return made

    def _beginning(self, value: ir.Value, perm: Perm) -> ir.Value:
        at, producer = self._at, value.producer()
        first = self._region.beginning(value)
        base = f"{value.name}_moved"
        if first is not None and producer is not None and producer.inputs[0] is not None:
            source, order = producer.inputs[0], composed(first, inverse(perm))
            if is_identity(order):
                return source
            return at.insert(producer, "Transpose", [source], {"perm": order}, base=base)
        here = producer is not None and producer.graph is self._region.graph
        anchor = producer if here and producer is not None else next(iter(self._region.graph))
        node = at.insert_node(
            anchor, "Transpose", [value], {"perm": inverse(perm)}, base=base, after=here
        )
        return node.outputs[0]

    def _end(self, node: ir.Node) -> None:
        """A Transpose or a Shape of a value of the region."""
        at, value = self._at, node.inputs[0]
        if value is None:
            return
        given = self._region.perms[value]
        source, perm = self._operand(value, given, node), self._region.ends[node]
        if perm is None:
            start = node.attributes.get_int("start", 0)
            end = node.attributes.get_int("end", len(given))
            name, shape = f"{node.outputs[0].name}_axes", at.insert(node, "Shape", [source])
            indices = at.constant(np.array(given[start:end], np.int64), name, node)
            at.become(node, "Gather", [shape, indices], {"axis": 0})
            return
        order = composed(given, perm)
        old = node.outputs[0]
        if not is_identity(order):
            at.become(node, "Transpose", [source], {"perm": order})
        elif not at.replace(old, source):
            at.become(node, "Identity", [source])
        else:  # it may be what another Transpose of the region starts from
            self._without = {v: source if w is old else w for v, w in self._without.items()}

    def _restore(self, value: ir.Value, node: ir.Node) -> None:
        """Gives the users of `value` that stay as they are a Transpose of its counterpart."""
        stay = any(use.node not in self._chosen for use in value.uses())
        if not stay and not value.is_graph_output():
            return
        perm, source = self._region.perms[value], self._without[value]
        if is_identity(perm):
            self._at.replace(value, source)
            return
        made = self._at.insert(
            node, "Transpose", [source], {"perm": perm}, base=f"{value.name}_restored"
        )
        self._at.replace(value, made)
