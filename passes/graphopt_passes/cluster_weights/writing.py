"""The nodes and initializers that stand for a weight as indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import Names, add_initializer, drop_unused_initializer
from graphopt_passes.cluster_weights.survey import Weight

Array = np.ndarray[Any, Any]


def write(model: ir.Model, names: Names, weight: Weight, codebook: Array, indices: Array) -> None:
    """Puts a Cast of `indices` and a Gather from `codebook` in place of the weight.

    With one codebook for each channel it is GatherElements, on a matrix that a Reshape makes into
    the weight.
    """
    base, shape = str(weight.value.name), indices.shape
    flat = not weight.shared and len(shape) != 2
    held = indices.reshape(weight.matrix) if flat else indices
    stored = add_initializer(model.graph, names.fresh(f"{base}_indices"), held)
    table = codebook[0] if weight.shared else codebook.T if weight.by_column else codebook
    values = add_initializer(
        model.graph, names.fresh(f"{base}_codebook"), np.ascontiguousarray(table)
    )
    int32 = ir.AttrInt64("to", int(ir.DataType.INT32))
    cast = _node(names, "Cast", base, [stored], [int32], ir.DataType.INT32, held.shape)
    operator = "Gather" if weight.shared else "GatherElements"
    axis = ir.AttrInt64("axis", 0 if weight.shared or weight.by_column else 1)
    gathered = _node(
        names,
        operator,
        base,
        [values, cast.outputs[0]],
        [axis],
        weight.tensor.dtype,
        held.shape,
    )
    nodes = [cast, gathered]
    if flat:
        target = add_initializer(
            model.graph, names.fresh(f"{base}_shape"), np.array(shape, np.int64)
        )
        inputs = [gathered.outputs[0], target]
        nodes.append(_node(names, "Reshape", base, inputs, [], weight.tensor.dtype, shape))
    _insert(model, weight.value, nodes)


def _insert(model: ir.Model, value: ir.Value, nodes: list[ir.Node]) -> None:
    """Puts `nodes`, the last of which makes what `value` holds, ahead of all that read that."""
    users = {use.node for use in value.uses()}
    in_main = all(user.graph is model.graph for user in users)
    first = next(node for node in model.graph if node in users) if in_main else model.graph[0]
    model.graph.insert_before(first, nodes)
    value.replace_all_uses_with(nodes[-1].outputs[0])
    producer = value.producer()
    if producer is None:
        drop_unused_initializer(value)
    elif producer.graph is not None:
        producer.graph.remove(producer, safe=True)


def _node(
    names: Names,
    operator: str,
    base: str,
    inputs: list[ir.Value],
    attributes: list[ir.Attr],
    dtype: ir.DataType,
    shape: tuple[int, ...],
) -> ir.Node:
    output = ir.Value(
        name=names.fresh(f"{base}_{operator.lower()}"),
        type=ir.TensorType(dtype),
        shape=ir.Shape(shape),
    )
    return ir.Node(
        "",
        operator,
        inputs,
        attributes,
        outputs=[output],
        name=names.fresh(f"{base}_{operator}"),
    )
