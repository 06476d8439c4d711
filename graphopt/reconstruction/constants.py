"""The constants that a layer reads, and giving it others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import (
    Names,
    add_initializer,
    constant_array,
    drop_unused_initializer,
    is_standard,
    rank,
    sole_use,
)


def _is_own_node(value: ir.Value) -> bool:
    """Whether `value` is what a Constant node gives to one node, and to nobody else."""
    producer = value.producer()
    is_constant = producer is not None and is_standard(producer, "Constant")
    return is_constant and not value.is_graph_output() and len(value.uses()) == 1


def is_own(value: ir.Value) -> bool:
    """Whether `value` is an initializer that one node reads, and nobody else sees."""
    outside = value.is_graph_output() or value.is_graph_input()
    return value.is_initializer() and not outside and len(value.uses()) == 1


def set_constant(
    names: Names, node: ir.Node, index: int, array: np.ndarray[Any, Any], base: str
) -> None:
    """Gives `node`, of the main graph, the constant `array` of its own as an input.

    Args:
        base: what to call it if there is no such input yet.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    array = np.ascontiguousarray(array).reshape(array.shape)
    if old is not None and is_own(old):
        old.const_value = ir.tensor(array, name=old.name)
        old.shape = ir.Shape(array.shape)
        return
    if old is not None and _is_own_node(old):
        producer = old.producer()
        assert producer is not None
        producer.attributes.clear()
        producer.attributes["value"] = ir.AttrTensor("value", ir.tensor(array, name=old.name))
        old.shape = ir.Shape(array.shape)
        return
    if old is None:
        node.resize_inputs(max(index + 1, len(node.inputs)))
    else:
        base = str(old.name)
    if node.graph is None:
        raise ValueError(f"node '{node.name}' is not in a graph")
    initializer = add_initializer(node.graph, names.fresh(base), array)
    node.replace_input_with(index, initializer)
    drop_unused_initializer(old)


def adder_behind(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add behind a MatMul with a constant along its last axis, and that input's index."""
    add = sole_use(node.outputs[0])
    if add is None or not is_standard(add, "Add") or add.graph is not node.graph:
        return None
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    array = constant_array(add.inputs[index])
    if array is None or array.dtype.kind != "f":
        return None
    data = rank(node.outputs[0])
    along_last = array.ndim > 0 and array.size == array.shape[-1]
    fits = array.ndim == 1 or (data is not None and array.ndim <= data)
    return (add, index) if along_last and fits else None
