"""About how long each node takes in float and in integers, by the costs of a target."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphopt.targets.quantization.costs import Costs
from graphopt_passes.quantize.candidates import Candidate

Times = np.ndarray[tuple[int], np.dtype[np.float64]]
"""float64 [2]: nanoseconds in float, and in integers."""
BYTES = (4, 1)
"""Of an element in float, and in integers."""
LAYOUTS = 3
"""How often a tensor between the sides is written: blocked, plain, and in integers."""
Shapes = Mapping[ir.Value, tuple[int, ...]]


def layer_times(candidate: Candidate, shapes: Shapes, costs: Costs) -> Times:
    """What a layer with a weight takes; nothing if its shapes are not known."""
    node = candidate.node
    output = shapes.get(node.outputs[0])
    if output is None:
        return np.zeros(2)
    weight = candidate.tensor.shape.numpy()
    if node.op_type != "Conv":
        inputs = weight[1 - candidate.axis]
        return _dense(costs, math.prod(output[:-1]), 1, 1, inputs, weight[candidate.axis])
    groups, taps = node.attributes.get_int("group", 1), math.prod(weight[2:])
    positions = output[0] * math.prod(output[2:])
    if groups > 1 and weight[1] == 1:
        return _depthwise(costs, positions, taps, output[1])
    return _dense(costs, positions, groups, taps, weight[1], weight[0] // groups)


def weight_times(candidate: Candidate, costs: Costs) -> Times:
    """What it takes to read a weight from memory."""
    return np.asarray(candidate.tensor.size * np.array(costs.weight))


def spilled_times(node: ir.Node, shapes: Shapes, costs: Costs) -> Times:
    """What it takes to move what `node` reads and writes, where that is too much to stay close."""
    sizes = [math.prod(shapes.get(v, ())) for v in (*node.inputs, *node.outputs) if v is not None]
    moved = [sum(n for n in sizes if n * width > costs.cached_bytes) for width in BYTES]
    return np.asarray(np.array(moved) * costs.spilled)


def plain_times(node: ir.Node, shapes: Shapes, costs: Costs) -> Times:
    """What a node without a weight takes."""
    output = shapes.get(node.outputs[0])
    if output is None or node.op_type not in costs.elementwise:
        return np.zeros(2)
    sizes = [math.prod(shapes.get(v, ())) for v in node.inputs if v is not None]
    elements = max([math.prod(output), *sizes])
    times = np.array(costs.node) + elements * np.array(costs.elementwise[node.op_type])
    if len(sizes) > 1 and 1 < min(sizes) < max(sizes):
        channels = output[1] if len(output) > 2 else output[-1]
        times += elements / max(channels, 1) * np.array(costs.broadcast)
    return np.asarray(times)


def boundary_time(value: ir.Value, shapes: Shapes, costs: Costs) -> float:
    """What it takes to bring `value` from floats to integers, or back: its layout changes too."""
    shape = shapes.get(value)
    if shape is None:
        return 0.0
    size = math.prod(shape)
    spilled = sum(costs.spilled) if size * BYTES[0] > costs.cached_bytes else 0
    return costs.boundary_node + (costs.boundary + LAYOUTS * spilled) * size


def _dense(
    costs: Costs, positions: int, groups: int, taps: int, inputs: int, outputs: int
) -> Times:
    """A layer that sums `inputs` channels of `taps` positions; both counts are of one group."""
    few = inputs < costs.block
    filled = np.array([_filled(inputs, block) for block in costs.input_block])
    if few:
        filled[0] = inputs
    products = filled * taps * _filled(outputs, costs.block) * positions * groups
    time = np.array(costs.node) + products * np.array(costs.few_inputs if few else costs.product)
    time += positions * groups * np.array(costs.position)
    if taps > 1:
        odd = inputs % np.array(costs.input_block) > 0
        slower = np.where(odd, costs.odd_inputs, 1)
        time += positions * groups * taps * np.array(costs.tap) * slower
    elements = positions * groups * _filled(outputs, costs.block)
    return np.asarray(
        time + elements * np.array(costs.few_inputs_element if few else costs.element)
    )


def _depthwise(costs: Costs, positions: int, taps: int, channels: int) -> Times:
    element = np.array(costs.depthwise_element) + taps * np.array(costs.depthwise_element_tap)
    each = taps * np.array(costs.depthwise_tap) + channels * element
    odd = np.array(costs.odd_channels) if channels % costs.block else np.ones(2)
    return np.asarray(costs.node + positions * each * odd)


def _filled(number: int, block: float) -> int:
    return int(-(-number // block) * block)
