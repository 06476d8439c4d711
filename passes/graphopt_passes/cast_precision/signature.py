"""Which inputs and outputs of a node can be of the low type: read from its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.ir import default_opset, replaced_operators, subgraphs
from graphopt.ir.facts import Facts
from graphopt.ir.query import DEFAULT_DOMAINS, walk
from graphopt_passes.cast_precision.low import LowType
from graphopt_passes.cast_precision.tables import BITS, FOLLOWS, HELD_OPERANDS
from graphopt_passes.set_opset.operators import schema_of
from graphopt_passes.set_opset.types import Types

FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Signature:
    """What becomes low if the node does, by index; the other floats stay fp32.

    Attributes:
        inputs: none where `refusal` is set.
        outputs: as `inputs`.
        refusal: why the node cannot be low.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    refusal: str | None = None


class Signatures:
    """The types of a model's values, and the signatures of its nodes outside functions."""

    def __init__(self, model: ir.Model, facts: Facts, low: LowType) -> None:
        self._facts = facts
        self._types = Types(model)
        self._low = low
        self._opset = default_opset(model)
        self._replaced = replaced_operators(model)
        self._float: dict[ir.Value, bool] = {}
        self.nodes: list[ir.Node] = list(walk(model.graph))
        """In topological order, each ahead of those in its subgraphs."""
        self.of: dict[ir.Node, Signature] = {node: self._signature(node) for node in self.nodes}

    def moved(self, twins: Mapping[ir.Node, ir.Node]) -> Signatures:
        """Those of a copy of the model, by node of this one."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.nodes = [twins[node] for node in self.nodes]
        copy.of = {twins[node]: signature for node, signature in self.of.items()}
        copy._float = {}
        for node, twin in twins.items():
            for value, other in zip(
                (*node.inputs, *node.outputs), (*twin.inputs, *twin.outputs), strict=True
            ):
                if value is not None and other is not None:
                    copy._float[other] = self.is_float(value)
        return copy

    def is_float(self, value: ir.Value | None) -> bool:
        """Whether `value` is a tensor of fp32."""
        if value is None:
            return False
        if value not in self._float:
            self._float[value] = self.dtype(value) == FLOAT
        return self._float[value]

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        return self._facts.dtype(value) or self._types.of(value)

    def floats(self, node: ir.Node) -> bool:
        """Whether `node` reads or gives fp32."""
        return any(self.is_float(value) for value in (*node.inputs, *node.outputs))

    def _signature(self, node: ir.Node) -> Signature:
        if not self.floats(node):
            return Signature(refusal="it has no floats")
        refusal = self._foreign(node)
        if refusal is not None:
            return Signature(refusal=refusal)
        if node.op_type in ("Cast", "ConstantOfShape"):
            return self._by_attribute(node)
        schema = schema_of(node.op_type, self._opset)
        assert schema is not None
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        variables = [
            "" if value is None else _formal(schema.inputs, index)
            for index, value in enumerate(node.inputs)
        ]
        low = {
            name
            for name in dict.fromkeys(variables)
            if self._low.type_str in allowed.get(name, ())
            and self._are_floats(
                [v for v, formal in zip(node.inputs, variables, strict=True) if formal == name]
            )
        }
        held = HELD_OPERANDS.get(node.op_type, ())
        inputs = frozenset(
            index
            for index, value in enumerate(node.inputs)
            if variables[index] in low and self.is_float(value) and index not in held
        )
        results = [self._result(node, schema, variables, i) for i in range(len(node.outputs))]
        outputs = frozenset(index for index, variable in enumerate(results) if variable in low)
        makes_floats = any(self.is_float(value) for value in node.outputs)
        if not inputs or (makes_floats and not outputs):
            kind = self._low.dtype.name.lower()
            return Signature(refusal=f"opset {self._opset} does not define it for {kind}")
        for index in outputs:
            self._float[node.outputs[index]] = True
        return Signature(inputs, outputs)

    def _are_floats(self, values: Sequence[ir.Value | None]) -> bool:
        given = [value for value in values if value is not None]
        return bool(given) and all(self.is_float(value) for value in given)

    def _foreign(self, node: ir.Node) -> str | None:
        if node.domain not in DEFAULT_DOMAINS:
            return f"it is an operator of '{node.domain}'"
        if node.op_type in self._replaced or node.overload:
            return "it is a function of the model"
        if node.op_type in BITS:
            return "it reads the bits of fp32"
        if next(subgraphs(node), None) is not None:
            return "what goes in and out of its subgraphs keeps its type"
        schema = schema_of(node.op_type, self._opset)
        if schema is None:
            return f"opset {self._opset} does not define it"
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if any(not isinstance(value.type, ir.TensorType | None) for value in values) or any(
            not any(kind.startswith("tensor(") for kind in formal.types)
            for formal in (*schema.inputs, *schema.outputs)
        ):
            return "it deals with other values than tensors"
        return None

    def _by_attribute(self, node: ir.Node) -> Signature:
        """A Cast reads whatever there is; a fill by ConstantOfShape is an attribute."""
        if node.op_type == "Cast":
            outputs = frozenset({0}) if self.is_float(node.outputs[0]) else frozenset[int]()
            return Signature(frozenset(), outputs)
        tensor = node.attributes.get("value")
        if tensor is not None and tensor.is_ref():
            return Signature(refusal="what it gives is a parameter")
        schema = schema_of(node.op_type, self._opset)
        assert schema is not None
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        if self._low.type_str not in allowed[schema.outputs[0].type_str]:
            return Signature(refusal=f"opset {self._opset} has no {self._low.name} for it")
        return Signature(frozenset(), frozenset({0}))

    def _result(
        self, node: ir.Node, schema: onnx.defs.OpSchema, variables: Sequence[str], index: int
    ) -> str:
        """The type variable of output `index`; that of an input, for none other can be low."""
        variable = _formal(schema.outputs, index)
        if variable in variables:
            return variable
        source = FOLLOWS.get(node.op_type)
        if source is None or "output_dtype" in node.attributes or source >= len(variables):
            return ""
        return variables[source]


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    formal = formals[min(index, len(formals) - 1)]
    many = onnx.defs.OpSchema.FormalParameterOption.Variadic
    if formal.option == many and not formal.is_homogeneous:
        return f"{formal.type_str}[{index}]"
    return str(formal.type_str)
