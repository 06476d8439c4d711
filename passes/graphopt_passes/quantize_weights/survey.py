"""Which weights can be stored in few bits, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.ir import constant_tensor, is_standard, label
from graphopt.quantization import Format, get_format
from graphopt.targets import Target
from graphopt_passes.quantize_weights.left import Left
from graphopt_passes.quantize_weights.matrices import behind_transposes, swaps_axes

if TYPE_CHECKING:
    from graphopt_passes.quantize_weights import QuantizeWeights

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
INT4_BLOCK = 32
LEAST_BLOCK = 16
LEAST_CHANNELS = 16
"""With fewer inputs or outputs there is no kernel that gains from it."""
WEIGHT_INPUT = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Gather": 0}


@dataclass(frozen=True)
class Read:
    """A node that computes with a weight, maybe behind Transposes."""

    node: ir.Node
    index: int
    turned: bool
    """Whether it sees the two axes of the weight the other way around."""


@dataclass(frozen=True)
class Layer:
    """A weight to store in few bits."""

    weight: ir.Value
    tensor: ir.TensorProtocol
    reads: tuple[Read, ...]
    axis: int
    """The axis that has the scales: that of the blocks, or else of the output channels."""
    block: int | None
    """The numbers along the axis that share a scale; None for one scale per index of it."""

    @property
    def only_gathered(self) -> bool:
        return all(read.node.op_type == "Gather" for read in self.reads)


def stored_format(options: QuantizeWeights) -> Format:
    """The format of the integers."""
    return get_format(options.format if options.symmetric else f"u{options.format}")


def survey(
    model: ir.Model, options: QuantizeWeights, target: Target, excluded: set[ir.Node]
) -> tuple[list[Layer], list[Left]]:
    """Every weight of the main graph in order of first use: to store in few bits, and to leave."""
    layers: list[Layer] = []
    left: list[Left] = []
    seen: set[ir.Value] = set()
    for node in model.graph:
        if not is_standard(node, *WEIGHT_INPUT):
            continue
        root, _ = behind_transposes(node.inputs[WEIGHT_INPUT[node.op_type]])
        if root is None or root in seen:
            continue
        seen.add(root)
        tensor = constant_tensor(root)
        if tensor is None:
            reason = None if node.op_type == "Gather" else _why_not_constant(node, root)
        elif node.op_type == "Gather" and tensor.dtype not in FLOAT_TYPES:
            reason = None  # of a shape, mostly: nobody expects that to be a weight
        else:
            verdict = _judge(root, tensor, model, options, target, excluded)
            if isinstance(verdict, Layer):
                layers.append(verdict)
                continue
            reason = verdict
        if reason is not None:
            left.append(Left(node, reason))
    return layers, left


def _why_not_constant(node: ir.Node, value: ir.Value) -> str:
    producer = value.producer()
    if value.is_graph_input() and (value.is_initializer() or node.op_type != "MatMul"):
        return "its weight is an input of the model"
    if producer is not None and is_standard(producer, "DequantizeLinear"):
        return "its weight is quantized already"
    return "it multiplies two activations" if node.op_type == "MatMul" else "its weight is computed"


def _judge(
    weight: ir.Value,
    tensor: ir.TensorProtocol,
    model: ir.Model,
    options: QuantizeWeights,
    target: Target,
    excluded: set[ir.Node],
) -> Layer | str:
    """How to store `weight`, or why not."""
    if tensor.dtype not in FLOAT_TYPES:
        return f"its weight is {tensor.dtype.name.lower()}"
    if tensor.size < options.min_elements:
        return f"its weight has fewer than {options.min_elements} elements"
    reads = tuple(_reads(weight))
    shape = tuple(tensor.shape.numpy())
    sides: set[tuple[int, int]] = set()
    for read in reads:
        if read.node in excluded:
            return "excluded"
        if read.node.graph is not model.graph:
            return "a subgraph reads its weight, too"
        found = _sides(read, len(shape), options)
        if isinstance(found, str):
            return found
        sides.add(found)
    if weight.is_graph_output() or any(read.index < 0 for read in reads):
        return "its weight is an output of the model, too"
    if len(sides) > 1:
        return "its weight is used along both axes"
    ((inputs, outputs),) = sides
    return _layer(weight, tensor, reads, inputs, outputs, options, target)


def _reads(weight: ir.Value, turned: bool = False) -> Iterator[Read]:
    """Who computes with `weight`; -1 is the index of a graph output."""
    for node, index in weight.uses():
        if index == 0 and swaps_axes(node):
            if node.outputs[0].is_graph_output():
                yield Read(node, -1, turned)
            yield from _reads(node.outputs[0], not turned)
        else:
            yield Read(node, index, turned)


def _sides(read: Read, rank: int, options: QuantizeWeights) -> tuple[int, int] | str:
    """The axes of the weight along which are inputs and outputs of `read`, or why not to store."""
    node = read.node
    if not is_standard(node, *WEIGHT_INPUT) or WEIGHT_INPUT[node.op_type] != read.index:
        return f"{node.op_type} '{label(node)}' reads its weight, too"
    if node.op_type == "Conv":
        if options.format == "int4":
            return "int4 is for MatMul and Gemm; TensorRT refuses it in a Conv"
        return 1, 0
    if rank != 2:
        return f"its weight has rank {rank}"
    if node.op_type == "Gather":
        if not options.embeddings:
            return "embeddings=true would store its table in few bits"
        if node.attributes.get_int("axis", 0) != 0:
            return "it does not read whole rows"
        sides = (1, 0)
    elif node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1:
        sides = (1, 0)
    else:
        sides = (0, 1)
    return (sides[1], sides[0]) if read.turned else sides


def _layer(
    weight: ir.Value,
    tensor: ir.TensorProtocol,
    reads: tuple[Read, ...],
    inputs: int,
    outputs: int,
    options: QuantizeWeights,
    target: Target,
) -> Layer | str:
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    length, channels = tensor.size // shape[outputs], shape[outputs]
    if min(length, channels) < LEAST_CHANNELS:
        return f"its weight is {length} by {channels}: fewer than {LEAST_CHANNELS}"
    block = options.block
    if block is None and options.format == "int4":
        block = INT4_BLOCK
    if block is None or len(shape) > 2:
        return Layer(weight, tensor, reads, outputs, None)
    if target.family == "tensorrt":
        fitting = [n for n in range(LEAST_BLOCK, block + 1) if length % n == 0]
        if not fitting:
            return f"no block of {LEAST_BLOCK} to {block} divides its {length} inputs"
        block = fitting[-1]
    layer = Layer(weight, tensor, reads, inputs, block)
    if layer.only_gathered and target.family == "onnxruntime-cpu":
        return "ONNX Runtime would dequantize the whole table at every run; int8 by row it does not"
    return layer
