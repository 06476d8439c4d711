"""The nodes and initializers that stand for a weight in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import Names, add_initializer, drop_unused_initializer, take_over
from graphopt.quantization import Format
from graphopt.targets import Target
from graphopt_passes.quantize_weights.survey import Layer

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StoredWeight:
    """A weight w ~ (data - zero) * scale.

    Attributes:
        data: of the weight's shape, in the dtype of the format.
        scale: as DequantizeLinear takes it, in the weight's dtype.
        zero: of the shape of the scale, in the dtype of the format; None if it is 0.
    """

    data: Array
    scale: Array
    zero: Array | None

    def nbytes(self, format: Format) -> int:
        """In a file."""
        zeros = 0 if self.zero is None else self.zero.size
        return (
            -(-self.data.size * format.bits // 8) + self.scale.nbytes + -(-zeros * format.bits // 8)
        )


def gathers_first(layer: Layer, target: Target) -> bool:
    """Whether rows are gathered as integers, and dequantized then.

    ONNX Runtime would otherwise dequantize the whole table at every run. TensorRT, which refuses
    integers that are not dequantized at once, gathers first by itself.
    """
    return layer.only_gathered and layer.block is None and target.family == "onnxruntime-cpu"


def opset_for(layer: Layer, format: Format, target: Target) -> int:
    """The first opset in which the weight can be written."""
    blocks = layer.block is not None or gathers_first(layer, target)
    return format.opset_for(layer.tensor.dtype, axis=True, blocks=blocks)


def write(
    model: ir.Model, names: Names, layer: Layer, stored: StoredWeight, *, gather_first: bool
) -> None:
    """Puts `stored` in place of the weight of `layer`."""
    write_rows = _write_gathers if gather_first else _write_whole
    write_rows(model, names, layer, stored)
    weight = layer.weight
    producer = weight.producer()
    if producer is None:
        drop_unused_initializer(weight)
    elif not weight.uses() and producer.graph is not None:
        producer.graph.remove(producer, safe=True)


def _write_whole(model: ir.Model, names: Names, layer: Layer, stored: StoredWeight) -> None:
    """A DequantizeLinear of the whole weight, ahead of all that read it."""
    base, weight = str(layer.weight.name), layer.weight
    users = {use.node for use in weight.uses()}
    first = next(node for node in model.graph if node in users)
    parameters = {"quantized": stored.data, "scale": stored.scale, "zero_point": stored.zero}
    inputs = [
        add_initializer(model.graph, names.fresh(f"{base}_{suffix}"), array)
        for suffix, array in parameters.items()
        if array is not None
    ]
    attributes = {"axis": layer.axis}
    if layer.block is not None:
        attributes["block_size"] = layer.block
    node = _node(names, "DequantizeLinear", f"{base}_dequantized", inputs, attributes)
    node.outputs[0].type = ir.TensorType(layer.tensor.dtype)
    node.outputs[0].shape = ir.Shape(layer.tensor.shape.numpy())
    model.graph.insert_before(first, node)
    weight.replace_all_uses_with(node.outputs[0])


def _write_gathers(model: ir.Model, names: Names, layer: Layer, stored: StoredWeight) -> None:
    """For each Gather, one of the integers of its rows and one of their scales.

    What comes out is [..., columns] of integers with scales [..., 1]: a block for each row.
    """
    base = str(layer.weight.name)
    columns = stored.data.shape[1]
    parameters = {"quantized": stored.data, "scale": stored.scale[:, None]}
    if stored.zero is not None:
        parameters["zero_point"] = stored.zero[:, None]
    tables = [
        add_initializer(model.graph, names.fresh(f"{base}_{suffix}"), array)
        for suffix, array in parameters.items()
    ]
    for read in layer.reads:
        gather, output = read.node, read.node.outputs[0]
        rows = [
            _node(
                names, "Gather", f"{output.name}_{suffix}", [table, gather.inputs[1]], {"axis": 0}
            )
            for suffix, table in zip(parameters, tables, strict=True)
        ]
        attributes = {"axis": -1, "block_size": columns}
        gathered = [node.outputs[0] for node in rows]
        whole = _node(names, "DequantizeLinear", f"{output.name}_rows", gathered, attributes)
        for node in rows:
            model.graph.insert_before(gather, node)
        model.graph.insert_before(gather, whole)
        whole.outputs[0].type, whole.outputs[0].shape = output.type, output.shape
        take_over(output, whole.outputs[0])
        model.graph.remove(gather, safe=True)


def _node(
    names: Names,
    operator: str,
    output: str,
    inputs: list[ir.Value] | list[ir.Value | None],
    attributes: dict[str, int],
) -> ir.Node:
    value = ir.Value(name=names.fresh(output))
    return ir.Node(
        "",
        operator,
        inputs,
        [ir.AttrInt64(name, number) for name, number in attributes.items()],
        outputs=[value],
        name=names.fresh(f"{output}_{operator}"),
    )
