"""What a BatchNormalization does, as a scale and a shift per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, is_standard
from graphopt.rewriting import DeclinedError
from graphopt_passes.fuse_affine.affine import FLOATS, Affine

NORM = "BatchNormalization"

# The default, which is a float32 like every float attribute.
_EPSILON = float(np.float32(1e-5))


def affine_of(node: ir.Node, opset: int) -> Affine:
    """What the BatchNormalization `node` computes.

    Raises:
        DeclinedError: unless it is in inference mode and all of its parameters are constant.
    """
    _require_inference(node, opset)
    names = ("scale", "bias", "mean", "variance")
    if len(node.inputs) != 5:
        raise DeclinedError("it does not have five inputs")
    scale, bias, mean, variance = (
        parameter(value, f"its {name}") for value, name in zip(node.inputs[1:], names, strict=True)
    )
    if len({array.shape for array in (scale, bias, mean, variance)}) != 1 or scale.ndim != 1:
        raise DeclinedError("its parameters are not one number per channel")
    epsilon: float = node.attributes.get_float("epsilon", _EPSILON)
    deviation = variance.astype(np.float64) + epsilon
    if not (deviation > 0).all():  # also refuses NaN
        raise DeclinedError("its variance plus epsilon is not positive")
    factor = scale.astype(np.float64) / np.sqrt(deviation)
    shift = bias.astype(np.float64) - mean.astype(np.float64) * factor
    return Affine(factor, shift)


def _require_inference(node: ir.Node, opset: int) -> None:
    """How training mode is stated has changed twice.

    Up to opset 6: attribute is_test, 0 by default. From 7: by the number of outputs. From 14:
    attribute training_mode. Up to opset 8, spatial=0 asks for statistics per element.
    """
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        raise DeclinedError("its attributes are parameters of a function")
    attributes = node.attributes
    training = bool(attributes.get_int("training_mode", 0)) if opset >= 14 else False
    if opset < 7:
        training = not attributes.get_int("is_test", 0)
    if training or any(value.name for value in node.outputs[1:]):
        raise DeclinedError("it is in training mode")
    if opset < 9 and attributes.get_int("spatial", 1) != 1:
        raise DeclinedError("it normalizes per element, not per channel (spatial=0)")


def parameter(value: ir.Value | None, what: str) -> np.ndarray:
    """The array of a constant floating-point parameter.

    Raises:
        DeclinedError: if it is not constant, or of a type that is not handled.
    """
    tensor = constant_tensor(value)
    if value is None or tensor is None:
        raise DeclinedError(f"{what} {_why_not_constant(value)}")
    if tensor.dtype == ir.DataType.BFLOAT16:
        raise DeclinedError(f"{what} is bfloat16: rounding it anew could cost 0.4% of each weight")
    if tensor.dtype not in FLOATS:
        raise DeclinedError(f"{what} is of type {tensor.dtype.name.lower()}")
    array = constant_array(value)
    if array is None:
        raise ValueError(f"value '{value.name}' is not constant")
    return array


def _why_not_constant(value: ir.Value | None) -> str:
    if value is None:
        return "is left out"
    if value.is_graph_input():
        overridable = value.is_initializer()
        return "is a graph input with a default" if overridable else "is a graph input"
    producer = value.producer()
    if producer is not None and is_standard(producer, "DequantizeLinear"):
        return "comes from a DequantizeLinear"
    return "is not constant"
