"""What is asked of a sequence or optional that is made in the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import Rewriter, Rule
from graphopt_passes.eliminate_noops.handing import hand_on


def _length(node: ir.Node, at: Rewriter) -> bool:
    """How many elements there are: a constant."""
    made = at.producer(node.inputs[0], "SequenceConstruct", "SequenceEmpty")
    if made is None or not _is_inside(node):
        return False
    count = np.array(len(made.inputs), np.int64)
    return hand_on(node, at, at.constant(count, f"{node.outputs[0].name}_length", node))


def _joined(node: ir.Node, at: Rewriter) -> bool:
    """ConcatFromSequence along an axis that there is: a Concat."""
    made = at.producer(node.inputs[0], "SequenceConstruct")
    axis, adds = node.attributes.get("axis"), node.attributes.get("new_axis")
    if made is None or axis is None or (adds is not None and adds.as_int()):
        return False
    if not at.has_operator("Concat", 4):
        return False
    at.become(node, "Concat", list(made.inputs), {"axis": axis.as_int()})
    return True


def _has_element(node: ir.Node, at: Rewriter) -> bool:
    """Of an optional that is made in the model, or of what is none: a constant."""
    value = node.inputs[0] if node.inputs else None
    made = at.producer(value, "Optional")
    if not _is_inside(node):
        return False
    if made is not None:
        known = bool(made.inputs) and made.inputs[0] is not None
    elif value is None or isinstance(value.type, ir.TensorType):
        known = value is not None
    else:
        return False
    return hand_on(node, at, at.constant(np.array(known), f"{node.outputs[0].name}_known", node))


def _is_inside(node: ir.Node) -> bool:
    """Whether the output of `node` is used, and no output of the graph: a constant can be it."""
    return bool(node.outputs[0].uses()) and not node.outputs[0].is_graph_output()


RULES = (
    Rule("sequence-length", ("SequenceLength",), _length),
    Rule("concat-from-sequence", ("ConcatFromSequence",), _joined),
    Rule("optional-has-element", ("OptionalHasElement",), _has_element),
)
