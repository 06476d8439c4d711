"""What is known of operators between opsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import onnx
import onnx_ir as ir

from graphopt.ir import constant_array
from graphopt.ir.facts import Facts
from graphopt.ir.structure import attribute_key

# Since the opset that comes with each, all that changed is which types it takes, and attributes
# that by default do nothing. The first lines have subgraphs, or deal with sequences and optionals,
# which onnx's converter does not take; for the others it has no way back.
_WIDENED = {
    **{"If": 1, "Loop": 1, "Scan": 9, "Identity": 1, "SplitToSequence": 11, "Optional": 15},
    **{"OptionalGetElement": 15, "OptionalHasElement": 15},
    **{"Add": 7, "Sub": 7, "Mul": 7, "Div": 7, "Relu": 6, "PRelu": 9, "LeakyRelu": 6, "Pow": 12},
    **{"Where": 9, "CumSum": 11, "GreaterOrEqual": 12, "LessOrEqual": 12, "Reshape": 5},
    **{"Shape": 1, "Size": 1, "Transpose": 1, "ConstantOfShape": 9, "GlobalMaxPool": 1},
}

# Since this opset Resize says in attributes how pixels of the result relate to those of the input.
RESIZE_WITH_MODES = 11

# An optional output of Attention, which opset 24 defines otherwise: after the mask.
_ATTENTION_SCORES = 3


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
    """Why `node` must not be converted, or not by onnx's converter, if so."""
    return _converted_wrongly(node, facts, old, new) or _too_new(node, facts, old, new)


def _converted_wrongly(node: ir.Node, facts: Facts, old: int, new: int) -> str | None:
    """What onnx's converter would do to `node` that changes results."""
    scores = any(value.name for value in node.outputs[_ATTENTION_SCORES:])
    if node.op_type == "Attention" and scores and _between(old, new, 24):
        return "opset 24 defines its output 'qk_matmul_output' otherwise"
    if node.op_type == "Hardmax" and _between(old, new, 13):
        rank, axis = facts.rank(node.inputs[0]), node.attributes.get_int("axis", None)
        if rank is None or axis not in (-1, rank - 1):
            return "since opset 13 it works along one axis, before on all from there on"
    if node.op_type in ("Resize", "Upsample") and _between(old, new, RESIZE_WITH_MODES):
        if new < old:
            return "before opset 11 it cannot say where the corners are"
        if node.attributes.get_string("mode", "nearest") == "nearest" and not _enlarges(node):
            return "before opset 11 it is not said which pixel is the nearest in a smaller image"
    return None


def _between(old: int, new: int, opset: int) -> bool:
    """Whether one of `old` and `new` is before `opset` and the other not."""
    return min(old, new) < opset <= max(old, new)


def _enlarges(node: ir.Node) -> bool:
    """Whether no axis becomes smaller in a Resize or Upsample before opset 11."""
    given = node.attributes.get_floats("scales", None)
    held = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    scales = given if held is None else held.tolist()
    return scales is not None and all(scale >= 1 for scale in scales)


def _too_new(node: ir.Node, facts: Facts, old: int, new: int) -> str | None:
    """What a node that needs no converter has or takes that opset `new` does not know."""
    schema = schema_of(node.op_type, new)
    if schema is None or not is_widened(node, old, new):
        return None
    unknown = [name for name in node.attributes if name not in schema.attributes]
    idle = idle_attributes(node, old, new)
    for name in unknown:
        if name not in idle:
            return f"that of opset {new} has no attribute '{name}'"
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    formal = (*_formal(node.inputs, schema.inputs), *_formal(node.outputs, schema.outputs))
    for value, kind in formal:
        text = _type_text(value, facts)
        if text is not None and text not in allowed.get(kind, [kind]):
            return f"that of opset {new} does not take {text}"
    return None


def idle_attributes(node: ir.Node, old: int, new: int) -> list[str]:
    """The attributes of `node` that opset `new` does not have, and that say what is the default."""
    before, after = schema_of(node.op_type, old), schema_of(node.op_type, new)
    if before is None or after is None:
        return []
    found = []
    for name, attribute in node.attributes.items():
        declared = before.attributes.get(name)
        if name in after.attributes or declared is None or not declared.default_value.type:
            continue
        default = ir.serde.deserialize_attribute(declared.default_value)
        if attribute_key(attribute) == attribute_key(default):
            found.append(name)
    return found


def _formal(
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
