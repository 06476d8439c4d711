"""Writing a decision into the model: types, casts, constants."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from graphopt.ir import (
    Names,
    add_initializer,
    constant_tensor,
    default_opset,
    is_standard,
    take_over,
)
from graphopt.ir.query import all_graphs
from graphopt_passes.cast_precision.constants import low_tensor
from graphopt_passes.cast_precision.decide import Decision
from graphopt_passes.cast_precision.low import LowType

FLOAT = ir.DataType.FLOAT
_CLIP_WITH_INPUTS = 11


class Writer:
    """Writes a decision about `model` into it.

    A value has one type where it is made, and at most one cast to the other, whoever reads it; a
    constant that both read is stored in both. Simulated, all types stay fp32, and what would be low
    goes through a cast to the low type and back: so a runtime that computes in fp32 shows what low
    types do.
    """

    def __init__(
        self, model: ir.Model, decision: Decision, *, low_io: bool = False, simulated: bool = False
    ) -> None:
        self._model = model
        self._decision = decision
        self._low: LowType = decision.low
        self._low_io = low_io
        self._simulated = simulated
        self._names = Names(model)
        self._stored_low: set[ir.Value] = set()
        self._casts: dict[tuple[ir.Value, bool, bool], ir.Value] = {}
        self._constants: dict[tuple[ir.Value, bool], ir.Value] = {}
        self.counts: Counter[str] = Counter()

    def write(self) -> None:
        """Changes the model; `counts` tells how often what was done."""
        uses = self._uses()
        self._store(uses)
        for node, index, value, wants_low in uses:
            fresh = self._version(value, node, index, wants_low)
            if fresh is not value:
                node.replace_input_with(index, fresh)
        self._write_outputs()
        if not self._simulated:
            self._remove_idle_casts()

    def _uses(self) -> list[tuple[ir.Node, int, ir.Value, bool]]:
        """Every read of a float, and whether it wants the low type."""
        found = []
        for node in self._decision.signatures.nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and self._decision.signatures.is_float(value):
                    found.append((node, index, value, self._decision.reads_low(node, index)))
        return found

    def _store(self, uses: list[tuple[ir.Node, int, ir.Value, bool]]) -> None:
        """Gives values their types, and constants that are only read low their data."""
        signatures, low = self._decision.signatures, self._low
        for node in self._decision.low_nodes():
            for index in signatures.of[node].outputs:
                self._stored_low.add(node.outputs[index])
            if not self._simulated and signatures.of[node].outputs:
                self._set_attribute(node)
        if self._low_io:
            self._stored_low.update(v for v in self._model.graph.inputs if signatures.is_float(v))
        if not self._simulated:
            for value in self._stored_low:
                value.type = ir.TensorType(low.dtype)
                if value.const_value is not None:  # what an input is by default
                    value.const_value = low_tensor(
                        value.const_value, low, str(value.name), mask=False, simulated=False
                    )
        else:
            self._stored_low.difference_update(self._model.graph.inputs)
        self._wanted: dict[ir.Value, set[bool]] = {}
        for node, index, value, wants_low in uses:
            if constant_tensor(value) is not None:
                is_plain = wants_low and (node, index) not in self._decision.masked
                self._wanted.setdefault(value, set()).add(is_plain)

    def _set_attribute(self, node: ir.Node) -> None:
        if is_standard(node, "Cast"):
            node.attributes["to"] = ir.AttrInt64("to", int(self._low.dtype))
        elif is_standard(node, "ConstantOfShape"):
            held = node.attributes.get("value")
            tensor = ir.tensor([0.0], FLOAT) if held is None else held.as_tensor()
            fill = low_tensor(tensor, self._low, tensor.name or "", mask=False, simulated=False)
            node.attributes["value"] = ir.AttrTensor("value", fill)

    def _version(self, value: ir.Value, node: ir.Node, index: int, wants_low: bool) -> ir.Value:
        """`value` as input `index` of `node` wants it."""
        use = (node, index)
        tensor = constant_tensor(value)
        if tensor is not None:
            return (
                self._constant(value, tensor, use in self._decision.masked) if wants_low else value
            )
        if is_standard(node, "Cast") and not self._simulated:
            return value
        is_low = value in self._stored_low
        if is_low == wants_low and not (self._simulated and is_low):
            return value
        to_low = self._simulated or wants_low
        return self._cast(value, to_low=to_low, mask=to_low and use in self._decision.saturated)

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol, mask: bool) -> ir.Value:
        """The constant `value` in the low type, in its place if nothing else needs it."""
        key = (value, mask)
        if key not in self._constants:
            alone = self._wanted[value] == {True} and not value.is_graph_output()
            base = str(value.name)
            name = base if alone else self._names.fresh(f"{base}_{self._low.name}")
            made = low_tensor(tensor, self._low, name, mask=mask, simulated=self._simulated)
            self._constants[key] = self._place(value, made, name, alone=alone)
        return self._constants[key]

    def _place(
        self, old: ir.Value, tensor: ir.TensorProtocol, name: str, *, alone: bool
    ) -> ir.Value:
        producer = old.producer()
        if producer is None:
            if not alone:
                assert old.graph is not None
                return add_initializer(old.graph, name, tensor)
            old.const_value, old.type = tensor, ir.TensorType(tensor.dtype)
            return old
        attribute = ir.AttrTensor("value", tensor)
        if alone:
            producer.attributes.clear()
            producer.attributes["value"] = attribute
            old.type = ir.TensorType(tensor.dtype)
            return old
        node = ir.Node("", "Constant", [], [attribute], name=self._names.fresh(name))
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(tensor.dtype)
        node.outputs[0].shape = None if old.shape is None else old.shape.copy()
        assert producer.graph is not None
        producer.graph.insert_after(producer, node)
        return node.outputs[0]

    def _cast(self, value: ir.Value, *, to_low: bool, mask: bool = False) -> ir.Value:
        """`value` behind a cast, which all that want the same share."""
        key = (value, to_low, mask)
        if key not in self._casts:
            source = self._raised(value) if mask else value
            if self._simulated:
                rounded = self._add(source, "Cast", self._low.dtype, self._low.name)
                self._casts[key] = self._add(rounded, "Cast", FLOAT, "rounded")
            elif to_low:
                self._casts[key] = self._add(source, "Cast", self._low.dtype, self._low.name)
            else:
                self._casts[key] = self._add(source, "Cast", FLOAT, "fp32")
        return self._casts[key]

    def _raised(self, value: ir.Value) -> ir.Value:
        """`value` with all of it at least `LowType.mask`."""
        least = ir.tensor(self._low.mask, FLOAT)
        if default_opset(self._model) < _CLIP_WITH_INPUTS:
            bounds = [ir.AttrFloat32("min", self._low.mask)]
            return self._add(value, "Clip", FLOAT, "raised", attributes=bounds)
        graph = value.graph
        assert graph is not None
        bound = add_initializer(graph, self._names.fresh(f"{value.name}_least"), least)
        return self._add(value, "Clip", FLOAT, "raised", further=[bound])

    def _add(
        self,
        value: ir.Value,
        op_type: str,
        dtype: ir.DataType,
        suffix: str,
        *,
        further: list[ir.Value] | None = None,
        attributes: list[ir.Attr] | None = None,
    ) -> ir.Value:
        """The output of a new node, in the graph of `value`, as early as can be."""
        if op_type == "Cast":
            attributes = [ir.AttrInt64("to", int(dtype))]
        name = self._names.fresh(f"{value.name}_{suffix}")
        result = ir.Value(name=name, type=ir.TensorType(dtype))
        result.shape = None if value.shape is None else value.shape.copy()
        inputs = [value, *(further or ())]
        node = ir.Node(
            "",
            op_type,
            inputs,
            attributes or (),
            outputs=[result],
            name=self._names.fresh(f"{name}_{op_type}"),
        )
        graph, producer = value.graph, value.producer()
        assert graph is not None
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        self.counts[op_type.lower()] += 1
        return result

    def _write_outputs(self) -> None:
        """Gives the outputs of all graphs the types that they must have."""
        for graph in all_graphs(self._model):
            low = self._low_io and graph is self._model.graph
            for value in dict.fromkeys(graph.outputs):
                is_low = value in self._stored_low
                if not self._decision.signatures.is_float(value) or constant_tensor(value):
                    continue
                if is_low != low or (is_low and self._simulated):
                    self._cast_output(graph, value, to_low=low or self._simulated)

    def _cast_output(self, graph: ir.Graph, value: ir.Value, *, to_low: bool) -> None:
        """Puts a cast of `value` in its place among the outputs, under its name."""
        cast = self._cast(value, to_low=to_low)
        if value.graph is graph:
            name = str(value.name)
            value.name = self._names.fresh(f"{name}_inner")
            cast.name = name
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = cast

    def _remove_idle_casts(self) -> None:
        """Takes out the casts of the model that have become casts from a type to itself."""
        for node in self._decision.signatures.nodes:
            if not is_standard(node, "Cast") or node.graph is None or node.inputs[0] is None:
                continue
            source, result = node.inputs[0], node.outputs[0]
            if self._dtype(source) == node.attributes.get_int("to", 0) and take_over(
                result, source
            ):
                node.graph.remove(node, safe=True)
                self.counts["idle-cast"] += 1

    def _dtype(self, value: ir.Value) -> int:
        """The type of `value` as it is now."""
        if value.type is not None and value.dtype is not None:
            return int(value.dtype)
        return int(self._decision.signatures.dtype(value) or 0)
