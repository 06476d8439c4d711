"""Constant nodes into initializers, and values into constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import (
    add_constant,
    add_initializer,
    constant_tensor,
    default_opset,
    is_standard,
    replaced_operators,
    subgraphs,
    take_over,
    walk,
)
from graphopt.ir.edit import INITIALIZERS_WITHOUT_INPUTS

# Constant holds other types than these since opset 9.
_EARLY_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def lift_constants(model: ir.Model) -> int:
    """Turns the Constant nodes of all graphs into initializers; how many.

    A Constant stays where it produces a graph output, holds strings or a sparse tensor, or where
    the model cannot have initializers that are no inputs: below IR version 4, and in functions.
    """
    if model.ir_version < INITIALIZERS_WITHOUT_INPUTS or "Constant" in replaced_operators(model):
        return 0
    return _lift(model.graph)


def _lift(graph: ir.Graph) -> int:
    lifted = []
    count = 0
    for node in graph:
        if node.op_type == "Constant" and _lift_node(graph, node):
            lifted.append(node)
        elif node.attributes.data:
            for inner in subgraphs(node):
                count += _lift(inner)
    graph.remove(lifted, safe=True)
    return count + len(lifted)


def _lift_node(graph: ir.Graph, node: ir.Node) -> bool:
    old = node.outputs[0]
    tensor = constant_tensor(old)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return False
    if old.is_graph_output() or not old.name or old.name in graph.initializers:
        return False
    new = add_initializer(graph, old.name, tensor)
    _inherit(new, old)
    old.replace_all_uses_with(new)
    return True


def skip_identities(model: ir.Model) -> int:
    """Lets the users of Identity nodes of constants use the constant itself; how many nodes.

    The Identity stays only where it gives a graph output.
    """
    if "Identity" in replaced_operators(model):
        return 0
    skipped = []
    for node in walk(model.graph):
        if not is_standard(node, "Identity") or constant_tensor(node.inputs[0]) is None:
            continue
        source, old = node.inputs[0], node.outputs[0]
        if source is not None and not old.is_graph_output():
            old.replace_all_uses_with(source)
            skipped.append(node)
    for node in skipped:
        if isinstance(node.graph, ir.Graph):
            node.graph.remove(node, safe=True)
    return len(skipped)


def can_hold(model: ir.Model, dtype: ir.DataType, *, as_node: bool = False) -> bool:
    """Whether there is a place for a new constant of type `dtype`.

    Args:
        as_node: whether it has to be a Constant node in any case.
    """
    as_node = as_node or model.ir_version < INITIALIZERS_WITHOUT_INPUTS
    return not as_node or default_opset(model) >= 9 or dtype in _EARLY_TYPES


def can_become_constant(model: ir.Model, value: ir.Value, dtype: ir.DataType) -> bool:
    """Whether `make_constant` has a place for `value`."""
    return bool(value.name) and can_hold(model, dtype, as_node=value.is_graph_output())


def make_constant(model: ir.Model, old: ir.Value, data: np.ndarray) -> None:
    """Replaces every use of `old`, the output of a node, by a constant of the same name.

    A graph output becomes the output of a Constant node: runtimes differ on initializers that are
    outputs. The node of `old` stays, without uses.
    """
    node, name = old.producer(), old.name
    if node is None or name is None or not isinstance(node.graph, ir.Graph):
        raise ValueError(f"value '{name}' is not the output of a node")
    if not old.is_graph_output():
        new = add_constant(model, name, data, node)
        _inherit(new, old)
        old.replace_all_uses_with(new)
        old.name = None
        return
    tensor = ir.Tensor(data, name=name)
    constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], name=node.name)
    constant.outputs[0].type = ir.TensorType(tensor.dtype)
    node.graph.insert_before(node, constant)
    take_over(old, constant.outputs[0])


def _inherit(new: ir.Value, old: ir.Value) -> None:
    if old.metadata_props:
        new.metadata_props.update(old.metadata_props)
    new.doc_string = old.doc_string
