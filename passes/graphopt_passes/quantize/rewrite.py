"""Writing the nodes and initializers of a quantized model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import (
    Names,
    add_initializer,
    constant_array,
    drop_unused_initializer,
    is_standard,
)
from graphopt.quantization import Format, get_format
from graphopt.targets.quantization import QuantizationRules
from graphopt_passes.quantize.candidates import Candidate
from graphopt_passes.quantize.gates import spread
from graphopt_passes.quantize.grids import Grid
from graphopt_passes.quantize.placement import Placement
from graphopt_passes.quantize.weights import (
    QuantizedWeight,
    least_scale,
    quantize_bias,
    quantize_weight,
)

Array = np.ndarray[Any, Any]


def write_data(
    model: ir.Model,
    names: Names,
    placement: Placement,
    grids: Mapping[ir.Value, Grid],
    rules: QuantizationRules,
    layers: Collection[ir.Node],
) -> None:
    """Puts QuantizeLinear and DequantizeLinear behind each tensor, for the uses that want them.

    The scale is a scalar of rank 0 and the zero point is stated: TensorRT takes a scale of shape
    [1] for one per channel, and ONNX an absent zero point for uint8.

    Args:
        layers: the nodes with a weight that are computed in integers.
    """
    for pair, uses in placement.given:
        for node, index in uses:
            node.replace_input_with(index, pair.result)
    for value, uses in placement.tensors.items():
        base, grid, producer = str(value.name), grids[value], value.producer()
        scale = add_initializer(model.graph, names.fresh(f"{base}_scale"), grid.scale)
        zero = add_initializer(model.graph, names.fresh(f"{base}_zero_point"), grid.zero_point)
        source, taken = value, scale
        if producer in placement.gates:
            source, wide = spread(model, names, producer, rules.numbers, grid.scale.dtype)
            taken = add_initializer(model.graph, names.fresh(f"{base}_sum_scale"), wide.scale)
        quantize = _node(names, "QuantizeLinear", base, "quantized", (source, taken, zero))
        quantize.outputs[0].type = zero.type
        quantize.outputs[0].shape = _copy(value.shape)
        dequantize = _node(
            names, "DequantizeLinear", base, "dequantized", (quantize.outputs[0], scale, zero)
        )
        dequantize.outputs[0].type = scale.type
        dequantize.outputs[0].shape = _copy(value.shape)
        if producer is None:
            model.graph.insert_before(model.graph[0], (quantize, dequantize))
        else:
            model.graph.insert_after(producer, (quantize, dequantize))
        for node, index in uses:
            read = dequantize.outputs[0]
            if index == 0 and node not in layers and is_standard(node, *rules.requantized):
                read = _by_channel(model, names, dequantize, grid, node) or read
            node.replace_input_with(index, read)
    model.graph.remove(placement.gates, safe=True)


def _by_channel(
    model: ir.Model, names: Names, dequantize: ir.Node, grid: Grid, layer: ir.Node
) -> ir.Value | None:
    """What `dequantize` gives, from a scale for each channel, for a layer that stays float.

    None if the runtime sees no difference, or has no weight to quantize.
    """
    weight = layer.inputs[1]
    if weight is None or not weight.is_initializer() or weight.shape is None:
        return None
    axis, channels = _read_channels(layer, weight.shape.numpy())
    if channels == 1:
        return None
    base = str(dequantize.outputs[0].name)
    parts = {"scale": grid.scale, "zero_point": grid.zero_point}
    inputs = [
        add_initializer(model.graph, names.fresh(f"{base}_{name}"), np.full(channels, part))
        for name, part in parts.items()
    ]
    source = dequantize.inputs[0]
    assert source is not None
    attributes = [ir.AttrInt64("axis", axis)]
    node = _node(names, "DequantizeLinear", base, "by_channel", (source, *inputs), attributes)
    node.outputs[0].type = dequantize.outputs[0].type
    node.outputs[0].shape = _copy(dequantize.outputs[0].shape)
    model.graph.insert_after(dequantize, node)
    return node.outputs[0]


def _read_channels(layer: ir.Node, weight: tuple[int, ...]) -> tuple[int, int]:
    """The axis of the data of a layer that it sums over, and its length."""
    if layer.op_type == "Conv":
        return 1, weight[1] * layer.attributes.get_int("group", 1)
    if layer.op_type == "ConvTranspose":
        return 1, weight[0]
    turned = layer.attributes.get_int("transB", 0)
    return 1 - layer.attributes.get_int("transA", 0), weight[turned]


def write_weights(
    model: ir.Model,
    names: Names,
    candidates: list[Candidate],
    rules: QuantizationRules,
    data_scales: Mapping[ir.Node, Array],
    limits: tuple[int, int],
) -> dict[ir.Node, QuantizedWeight]:
    """Makes each weight an initializer of few bits and a DequantizeLinear; the float one goes.

    A weight that several nodes use along the same axis is stored once. One that is given stays.

    Args:
        data_scales: the scale of the data of each node whose bias becomes int32.
        limits: the least and the greatest value of a weight.

    Returns:
        The weight of each node.

    Raises:
        GraphoptError: if a weight or a bias is NaN or infinite.
    """
    writer = _Weights(model, names, get_format(rules.numbers.weight), limits)
    used = {c.node: writer.write(c, data_scales.get(c.node)) for c in candidates}
    for candidate in candidates:
        for value in (candidate.weight, candidate.bias):
            if value is not None:
                _drop(value)
    return used


class _Weights:
    def __init__(
        self, model: ir.Model, names: Names, format: Format, limits: tuple[int, int]
    ) -> None:
        self.model = model
        self.names = names
        self.format = format
        self.limits = limits
        self.written: dict[tuple[ir.Value, int, bytes], tuple[ir.Value, QuantizedWeight]] = {}

    def write(self, candidate: Candidate, data_scale: Array | None) -> QuantizedWeight:
        given = _given(candidate) if candidate.given else None
        weight = given or self.write_weight(candidate, data_scale)
        if candidate.bias is not None and data_scale is not None:
            self.write_bias(candidate, candidate.bias, data_scale, weight.scale)
        return weight

    def write_weight(self, candidate: Candidate, data_scale: Array | None) -> QuantizedWeight:
        base, axis = str(candidate.weight.name), candidate.axis
        array = candidate.tensor.numpy()
        least = None
        if candidate.bias is not None and data_scale is not None:
            least = least_scale(_bias_array(candidate, candidate.bias), data_scale)
        try:
            weight = quantize_weight(array, axis, self.limits, format=self.format, least=least)
        except ValueError as error:
            raise GraphoptError(f"holds {error}", where=f"weight '{base}'") from None
        key = (candidate.weight, axis, weight.scale.tobytes())
        if key not in self.written:
            value = self.dequantized(candidate.node, base, weight, axis, candidate.tensor.dtype)
            self.written[key] = value, weight
        value, weight = self.written[key]
        candidate.node.replace_input_with(candidate.rule.weight, value)
        return weight

    def write_bias(
        self, candidate: Candidate, bias: ir.Value, data_scale: Array, scale: Array
    ) -> None:
        """Stores a bias in int32; one that a given weight makes too large for that stays float."""
        array = _bias_array(candidate, bias)
        scale = np.broadcast_to(scale, array.shape)
        if candidate.given and (least_scale(array, data_scale) > scale).any():
            return
        stored = quantize_bias(array, data_scale, scale)
        assert candidate.bias_use is not None
        node, index = candidate.bias_use
        value = self.dequantized(candidate.node, str(bias.name), stored, 0, candidate.dtype)
        node.replace_input_with(index, value)

    def dequantized(
        self, before: ir.Node, base: str, weight: QuantizedWeight, axis: int, dtype: ir.DataType
    ) -> ir.Value:
        """The output of a new DequantizeLinear ahead of `before`."""
        graph, fresh = self.model.graph, self.names.fresh
        zero = np.zeros(weight.scale.shape, weight.data.dtype)
        inputs = (
            add_initializer(graph, fresh(f"{base}_quantized"), weight.data),
            add_initializer(graph, fresh(f"{base}_scale"), weight.scale),
            add_initializer(graph, fresh(f"{base}_zero_point"), zero),
        )
        attributes = [ir.AttrInt64("axis", axis)]
        node = _node(self.names, "DequantizeLinear", base, "dequantized", inputs, attributes)
        node.outputs[0].type = ir.TensorType(dtype)
        node.outputs[0].shape = ir.Shape(weight.data.shape)
        graph.insert_before(before, node)
        return node.outputs[0]


def _bias_array(candidate: Candidate, bias: ir.Value) -> Array:
    """The bias, one number for each channel.

    Raises:
        GraphoptError: if one is NaN or infinite.
    """
    array = constant_array(bias)
    assert array is not None
    if not np.isfinite(array).all():
        raise GraphoptError("holds NaN or an infinite value", where=f"bias '{bias.name}'")
    return np.broadcast_to(array.reshape(-1), candidate.tensor.shape.numpy()[candidate.axis])


def _given(candidate: Candidate) -> QuantizedWeight:
    dequantize = candidate.weight.producer()
    assert dequantize is not None
    scale = constant_array(dequantize.inputs[1])
    assert scale is not None
    return QuantizedWeight(candidate.tensor.numpy(), scale.reshape(-1))


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
