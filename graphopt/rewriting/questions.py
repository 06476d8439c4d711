"""What rules ask of a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import constant_tensor, replaced_operators, sole_use
from graphopt.ir.facts import Dims, Facts
from graphopt.ir.query import DEFAULT_DOMAINS
from graphopt.pipeline.base import PassContext
from graphopt.rewriting.rule import DeclinedError

# A constant beyond this is read only by rules that mean to change it.
SMALL_ELEMENTS = 64


class Questions:
    """A model and what is known of it, as rules see it."""

    def __init__(self, model: ir.Model, context: PassContext) -> None:
        self.model = model
        self.context = context
        self.facts: Facts = context.analyses.facts(model)
        self.opset = self.facts.opset
        self._oldest = _oldest_opset(model, self.opset)
        self._replaced = replaced_operators(model)
        self._has_functions = bool(model.functions)  # outside of them no attribute is a reference

    def has_operator(self, op_type: str, since: int) -> bool:
        """Whether the model may use `op_type`, which came in opset `since`, and the target wants
        it."""
        return (
            self._oldest >= since
            and op_type not in self._replaced
            and op_type not in self.context.target.unwanted_operators
        )

    def require_operator(self, op_type: str, since: int, dtype: ir.DataType | None) -> None:
        """Raises DeclinedError, with the reason, unless `has_operator` and it takes a first input
        of `dtype`."""
        if self._oldest < since:
            raise DeclinedError(
                f"{op_type} needs opset {since} (the model has {self._oldest}): "
                f"run set-opset{{version={since}}} first"
            )
        if op_type in self._replaced:
            raise DeclinedError(f"the model has a function of its own that is called {op_type}")
        if op_type in self.context.target.unwanted_operators:
            raise DeclinedError(f"the target '{self.context.target.name}' does not want {op_type}")
        if dtype is None or f"tensor({_type_name(dtype)})" not in _input_types(op_type, self.opset):
            raise DeclinedError(
                f"{op_type} of opset {self.opset} does not take {_type_name(dtype)}"
            )

    def is_op(self, node: ir.Node | None, *op_types: str) -> bool:
        """Whether `node` is one of `op_types` as ONNX defines them."""
        return (
            node is not None
            and node.op_type in op_types  # first, since it is what most are not
            and node.domain in DEFAULT_DOMAINS
            and node.op_type not in self._replaced
            and not (self._has_functions and any(a.is_ref() for a in node.attributes.values()))
        )

    def producer(self, value: ir.Value | None, *op_types: str) -> ir.Node | None:
        """The node that makes `value`, if it is one of `op_types`, wherever else it is used."""
        node = None if value is None else value.producer()
        if node is None or node.op_type not in op_types:  # what most are not
            return None
        return node if self.is_op(node, *op_types) else None

    def before(self, node: ir.Node, index: int, *op_types: str) -> ir.Node | None:
        """The node of `op_types` that makes input `index` of `node`, for `node` alone.

        It is in the same graph, and the value is its only used output and no graph output: a
        rewrite of `node` may take it in.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        found = self.producer(value, *op_types)
        if found is None or value is None or found.graph is not node.graph:
            return None
        return found if sole_use(value) is node and self.is_lone(found) else None

    def is_lone(self, node: ir.Node) -> bool:
        """Whether only the first output of `node` is used."""
        return not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])

    def after(self, node: ir.Node, *op_types: str) -> ir.Node | None:
        """The one node that uses the first output of `node`, if it is one of `op_types`.

        It is in the same graph, and the output is no graph output.
        """
        user = sole_use(node.outputs[0]) if self.is_lone(node) else None
        if user is None or user.graph is not node.graph:
            return None
        return user if self.is_op(user, *op_types) else None

    def dims(self, value: ir.Value | None) -> Dims | None:
        return self.facts.dims(value)

    def rank(self, value: ir.Value | None) -> int | None:
        return self.facts.rank(value)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        return self.facts.dtype(value)

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether `value` is an initializer that no caller can override, or a Constant node's."""
        return constant_tensor(value) is not None

    def owns(self, node: ir.Node, index: int) -> bool:
        """Whether nothing but `node` uses the constant input `index`: without it, it goes."""
        value = node.inputs[index]
        return value is not None and not value.is_graph_input() and sole_use(value) is node

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """The constant `value` of any size (ml_dtypes for what numpy lacks); None if it is none."""
        tensor = constant_tensor(value)
        return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.numpy()

    def small(self, value: ir.Value | None) -> np.ndarray | None:
        """`array` if it has at most SMALL_ELEMENTS."""
        tensor = constant_tensor(value)
        if tensor is None or tensor.size > SMALL_ELEMENTS or tensor.dtype == ir.DataType.STRING:
            return None
        return tensor.numpy()

    def scalar(self, value: ir.Value | None) -> float | None:
        """The constant `value` of one element, whatever its rank, as a Python float."""
        tensor = constant_tensor(value)
        if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
            return None
        array = tensor.numpy()
        return None if array.dtype.kind in "cO" else float(array.reshape(-1)[0])

    def is_number(self, value: ir.Value | None, number: float) -> bool:
        """Whether `value` is a constant of one element that equals `number`."""
        return self.scalar(value) == number

    def ints(self, node: ir.Node, index: int, attribute: str, since: int) -> tuple[int, ...] | None:
        """A list that became input `index` of `node` in opset `since`, an attribute before.

        () if it is left out, None if it is not known.
        """
        if self.opset < since:
            return tuple(node.attributes.get_ints(attribute, ()))
        if index >= len(node.inputs) or node.inputs[index] is None:
            return ()
        known = self.facts[node.inputs[index]].ints()
        return None if known is None else tuple(known)

    def keeps_shape(self, small: ir.Value | None, large: ir.Value | None) -> bool:
        """Whether broadcasting `small` against `large` surely gives the shape of `large`."""
        one, other = self.dims(small), self.dims(large)
        if one is None:
            return False
        if other is None:
            return one == ()
        if len(one) > len(other):
            return False
        pairs = zip(reversed(one), reversed(other), strict=False)
        return all(a in (1, b) for a, b in pairs)

    def operands(
        self, node: ir.Node, fits: Callable[[ir.Value | None], bool]
    ) -> tuple[int, int] | None:
        """Of a binary node: (index of an input that `fits`, index of the other); None if neither.

        For operators that commute.
        """
        if len(node.inputs) != 2:
            return None
        if fits(node.inputs[1]):
            return 1, 0
        return (0, 1) if fits(node.inputs[0]) else None


def _oldest_opset(model: ir.Model, opset: int) -> int:
    """The least opset that the model or a function of it imports."""
    imports = (function.opset_imports for function in model.functions.values())
    return min([opset, *(v for i in imports for d, v in i.items() if d in DEFAULT_DOMAINS)])


def _type_name(dtype: ir.DataType | None) -> str:
    return "unknown types" if dtype is None else dtype.name.lower()


@cache
def _input_types(op_type: str, opset: int) -> frozenset[str]:
    """The types that the first input of an operator of the default domain may have."""
    schema = onnx.defs.get_schema(op_type, opset)
    return frozenset(schema.inputs[0].types)
