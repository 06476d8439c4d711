"""What is known of operators between opsets."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from graphopt.ir.facts import Facts

# Of these, all that later opsets changed is that they allow more types.
WIDENED = frozenset(
    {
        "If",
        "Loop",
        "Identity",
        "SplitToSequence",
        "OptionalGetElement",
        "OptionalHasElement",
    }
)


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


def refusal(node: ir.Node, facts: Facts, old: int, new: int) -> str | None:
    """Why `node` must not be given to onnx's converter, if so."""
    return None
