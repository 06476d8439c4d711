"""What a model brings that is quantized already: it is kept, and used where it fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import constant_array, constant_tensor, is_standard, label, nodes_of
from graphopt.quantization import get_format
from graphopt.targets.quantization import OperatorRule, QuantizationRules

_INTEGER_OPERATORS = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_UINT8 = ir.DataType.UINT8


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and its DequantizeLinear, both with the same scalar grid."""

    source: ir.Value
    result: ir.Value
    scale: np.ndarray
    zero_point: int


def quantized_already(model: ir.Model) -> ir.Node | None:
    """The first node of `model`, in any graph or function, that belongs to a quantized model."""
    for node in nodes_of(model):
        if is_standard(node, "QuantizeLinear", "DequantizeLinear") or _is_integer(node):
            return node
    return None


def require_fit(model: ir.Model, rules: QuantizationRules) -> None:
    """Checks that what is quantized in `model` is what `rules` want, or at least can stand.

    Raises:
        GraphoptError: if it is not; it names the node.
    """
    for node in nodes_of(model):
        if _is_integer(node):
            raise _refusal(
                node,
                "it computes in integers by itself, and only pairs of QuantizeLinear and "
                "DequantizeLinear can be completed",
            )
        if is_standard(node, "QuantizeLinear", "DequantizeLinear"):
            _require_fitting_numbers(node, rules)


def _require_fitting_numbers(node: ir.Node, rules: QuantizationRules) -> None:
    dtype = stored_type(node)
    name = "an unknown type" if dtype is None else dtype.name
    if name not in rules.numbers.stored:
        implied = len(node.inputs) < 3 and node.op_type == "QuantizeLinear"
        because = " (the zero point is left out, which means that)" if implied else ""
        raise _refusal(node, f"it is {name.lower()}{because}, which the target does not take")
    if not rules.numbers.symmetric or len(node.inputs) < 3 or node.inputs[2] is None:
        return
    zero = constant_array(node.inputs[2])
    if zero is None:
        raise _refusal(node, "its zero point is computed, and the target takes 0 alone")
    if zero.astype(np.float32).any():
        raise _refusal(node, "its zero point is not 0, and the target takes nothing else")


def _refusal(node: ir.Node, reason: str) -> GraphoptError:
    return GraphoptError(
        f"the model is already quantized, and {node.op_type} '{label(node)}' does not fit: "
        f"{reason}",
        where="pass 'quantize'",
        fix="start from the float model",
    )


def _is_integer(node: ir.Node) -> bool:
    return is_standard(node, *_INTEGER_OPERATORS) or node.op_type.startswith("QLinear")


def stored_type(node: ir.Node) -> ir.DataType | None:
    """The low-precision type of a QuantizeLinear or DequantizeLinear; None if it is unknown."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        tensor = constant_tensor(zero)
        return zero.dtype if tensor is None else tensor.dtype
    if node.op_type == "QuantizeLinear":
        return ir.DataType(node.attributes.get_int("output_dtype", 0) or _UINT8)
    source = node.inputs[0]
    tensor = constant_tensor(source)
    if tensor is not None:
        return tensor.dtype
    producer = None if source is None else source.producer()
    if producer is not None and is_standard(producer, "QuantizeLinear"):
        return stored_type(producer)
    return None if source is None else source.dtype


def pairs(graph: ir.Graph) -> list[Pair]:
    """The pairs of data in `graph`, in its order."""
    found: list[Pair] = []
    for node in graph:
        if not is_standard(node, "DequantizeLinear") or node.inputs[0] is None:
            continue
        quantize = node.inputs[0].producer()
        if quantize is None or not is_standard(quantize, "QuantizeLinear"):
            continue
        source, grid = quantize.inputs[0], _grid(node)
        if source is None or constant_tensor(source) is not None:
            continue
        if grid is not None and grid == _grid(quantize):
            scale = constant_array(node.inputs[1])
            assert scale is not None
            found.append(Pair(source, node.outputs[0], scale.reshape(()), grid[2]))
    return found


def _grid(node: ir.Node) -> tuple[ir.DataType | None, float, int] | None:
    """The type, scale and zero point of a QuantizeLinear or DequantizeLinear, if it has but one."""
    scale = constant_array(node.inputs[1])
    if scale is None or scale.size != 1:
        return None
    zero = constant_array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(())
    if zero is None:
        return None
    return stored_type(node), float(scale.reshape(())), int(zero.astype(np.float32).reshape(()))


@dataclass(frozen=True)
class GivenWeight:
    """A weight that is stored in the target's format already."""

    stored: ir.TensorProtocol
    """The integers; floats if a QuantizeLinear stands behind them."""
    scale: ir.TensorProtocol


def fitting_weight(
    value: ir.Value, rule: OperatorRule, axis: int, rules: QuantizationRules
) -> GivenWeight | str:
    """What is behind a weight in the target's format, or why it is none.

    Args:
        value: the output of a DequantizeLinear.
        axis: the axis along which each channel may have its own scale.
    """
    node = value.producer()
    assert node is not None
    dtype = stored_type(node)
    stored = node.inputs[0]
    quantize = None if stored is None else stored.producer()
    if quantize is not None and is_standard(quantize, "QuantizeLinear"):
        stored = quantize.inputs[0]
    tensor, scale = constant_tensor(stored), constant_tensor(node.inputs[1])
    if tensor is None or scale is None:
        return "its weight is computed from the input"
    if dtype != get_format(rules.numbers.weight).onnx_type or "block_size" in node.attributes:
        return "its weight is quantized already, in another format"
    zero = constant_array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(())
    if zero is None or zero.astype(np.float32).any():
        return "its weight is quantized already, with a zero point other than 0"
    least, greatest = rule.weight_ranks
    rank = len(tensor.shape)
    if not least <= rank <= greatest:
        return f"its weight has rank {rank}"
    if scale.size > 1 and node.attributes.get_int("axis", 1) % rank != axis:
        return "its weight is quantized already, along another axis"
    return GivenWeight(tensor, scale)
