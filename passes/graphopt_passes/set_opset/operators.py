"""What is known of operators between opsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import onnx
import onnx_ir as ir

from graphopt.ir.facts import Facts

# Since the opset that comes with each, all that changed is which types it allows. They have
# subgraphs, or deal with sequences and optionals, which onnx's converter does not take.
_WIDENED = {
    "If": 1,
    "Loop": 1,
    "Scan": 9,
    "Identity": 1,
    "SplitToSequence": 11,
    "Optional": 15,
    "OptionalGetElement": 15,
    "OptionalHasElement": 15,
}


@cache
def schema_of(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """The definition of `op_type` in `opset`; None if there is none, or a deprecated one."""
    if not onnx.defs.has(op_type, opset, ""):
        return None
    schema = onnx.defs.get_schema(op_type, opset, "")
    return None if schema.deprecated else schema


@cache
def changes(op_type: str, old: int, new: int) -> bool:
    """Whether `op_type` is defined anew between the two opsets."""
    one, other = schema_of(op_type, old), schema_of(op_type, new)
    return one is None or other is None or one.since_version != other.since_version


def is_widened(node: ir.Node, old: int, new: int) -> bool:
    """Whether all that changed of the operator of `node` is which types it allows."""
    since = _WIDENED.get(node.op_type)
    return since is not None and min(old, new) >= since


def refusal(node: ir.Node, facts: Facts, old: int, new: int) -> str | None:
    """Why `node` must not be given to onnx's converter, if so."""
    schema = schema_of(node.op_type, new)
    if schema is None or not is_widened(node, old, new):
        return None
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    formal = (*zip_formal(node.inputs, schema.inputs), *zip_formal(node.outputs, schema.outputs))
    for value, kind in formal:
        text = _type_text(value, facts)
        if text is not None and text not in allowed.get(kind, [kind]):
            return f"that of opset {new} does not take {text}"
    return None


def zip_formal(
    values: Sequence[ir.Value | None], formals: Sequence[onnx.defs.OpSchema.FormalParameter]
) -> Iterator[tuple[ir.Value, str]]:
    """Each value with the type, or the variable for types, that the schema says."""
    for index, value in enumerate(values):
        if value is not None:
            yield value, formals[min(index, len(formals) - 1)].type_str


def _type_text(value: ir.Value, facts: Facts) -> str | None:
    """The type of `value` as schemas write it; None if it is not known."""
    dtype = facts.dtype(value)
    if dtype is not None:
        return f"tensor({dtype.name.lower()})"
    if value.type is None or isinstance(value.type, ir.TensorType):
        return None
    return _text(value.type)


def _text(kind: ir.TypeProtocol) -> str:
    if isinstance(kind, ir.SequenceType):
        return f"seq({_text(kind.elem_type)})"
    if isinstance(kind, ir.OptionalType):
        return f"optional({_text(kind.elem_type)})"
    return f"tensor({kind.dtype.name.lower()})"
