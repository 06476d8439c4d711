"""Writing the nodes and initializers of a quantized model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import Names, add_initializer, drop_unused_initializer
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.placement import Placement
from graphopt_passes.quantize.weights import QuantizedWeight, quantize_weight


def write_data(
    model: ir.Model,
    names: Names,
    placement: Placement,
    scales: Mapping[ir.Value, np.ndarray[Any, Any]],
) -> None:
    """Puts QuantizeLinear and DequantizeLinear behind each tensor, for the uses that want them.

    The scale is a scalar of rank 0 and the zero point is stated: TensorRT takes a scale of shape
    [1] for one per channel, and ONNX an absent zero point for uint8.
    """
    for value, uses in placement.tensors.items():
        base = str(value.name)
        scale = add_initializer(model.graph, names.fresh(f"{base}_scale"), scales[value])
        zero = add_initializer(
            model.graph, names.fresh(f"{base}_zero_point"), np.array(0, dtype=np.int8)
        )
        quantize = _node(names, "QuantizeLinear", base, "quantized", (value, scale, zero))
        quantize.outputs[0].type = ir.TensorType(ir.DataType.INT8)
        quantize.outputs[0].shape = _copy(value.shape)
        dequantize = _node(
            names, "DequantizeLinear", base, "dequantized", (quantize.outputs[0], scale, zero)
        )
        dequantize.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(scales[value].dtype))
        dequantize.outputs[0].shape = _copy(value.shape)
        producer = value.producer()
        if producer is None:
            model.graph.insert_before(model.graph[0], (quantize, dequantize))
        else:
            model.graph.insert_after(producer, (quantize, dequantize))
        for node, index in uses:
            node.replace_input_with(index, dequantize.outputs[0])


def write_weights(
    model: ir.Model, names: Names, candidates: list[Candidate], limits: tuple[int, int]
) -> dict[ir.Node, QuantizedWeight]:
    """Makes each weight an int8 initializer and a DequantizeLinear; the float one goes.

    A weight that several nodes use along the same axis is stored once.

    Returns:
        The weight of each node.

    Raises:
        GraphoptError: if a weight is NaN or infinite.
    """
    written: dict[tuple[ir.Value, int], tuple[ir.Value, QuantizedWeight]] = {}
    used: dict[ir.Node, QuantizedWeight] = {}
    for candidate in candidates:
        key = (candidate.weight, candidate.axis)
        if key not in written:
            written[key] = _write_weight(model, names, candidate, limits)
        value, used[candidate.node] = written[key]
        candidate.node.replace_input_with(candidate.rule.weight, value)
    for weight, _ in written:
        _drop(weight)
    return used


def _write_weight(
    model: ir.Model, names: Names, candidate: Candidate, limits: tuple[int, int]
) -> tuple[ir.Value, QuantizedWeight]:
    base = str(candidate.weight.name)
    try:
        weight = quantize_weight(candidate.tensor.numpy(), candidate.axis, limits)
    except ValueError as error:
        raise GraphoptError(f"holds {error}", where=f"weight '{base}'") from None
    zero = np.zeros(weight.scale.shape, np.int8)
    inputs = (
        add_initializer(model.graph, names.fresh(f"{base}_quantized"), weight.data),
        add_initializer(model.graph, names.fresh(f"{base}_scale"), weight.scale),
        add_initializer(model.graph, names.fresh(f"{base}_zero_point"), zero),
    )
    axis = [ir.AttrInt64("axis", candidate.axis)]
    node = _node(names, "DequantizeLinear", base, "dequantized", inputs, axis)
    node.outputs[0].type = ir.TensorType(candidate.tensor.dtype)
    node.outputs[0].shape = ir.Shape(weight.data.shape)
    model.graph.insert_before(candidate.node, node)
    return node.outputs[0], weight


def _node(
    names: Names,
    operator: str,
    base: str,
    suffix: str,
    inputs: tuple[ir.Value, ...],
    attributes: list[ir.Attr] | None = None,
) -> ir.Node:
    output = ir.Value(name=names.fresh(f"{base}_{suffix}"))
    return ir.Node(
        "",
        operator,
        inputs,
        attributes or (),
        outputs=[output],
        name=names.fresh(f"{base}_{operator}"),
    )


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()


def _drop(weight: ir.Value) -> None:
    """Removes a float weight, an initializer or a Constant node, that nothing uses any more."""
    producer = weight.producer()
    if producer is None:
        drop_unused_initializer(weight)
    elif not weight.uses() and not weight.is_graph_output() and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
