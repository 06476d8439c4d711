"""Products with constant matrices: what they have in common, however they are written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewriting import DeclinedError, Rewriter

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

MAX_PRODUCTS = 1 << 32
"""Multiplications that the product of two constants may take: about a second."""

MAX_COPY = 1 << 20
"""Bytes that a new constant may have while other nodes go on to use the old one."""

# A product of matrices that is so much smaller than they are has lost their digits.
_CANCELLATION = 1024


@dataclass(frozen=True)
class Linear:
    """x @ weight + bias, where the weight is a constant matrix [inputs, outputs]."""

    node: ir.Node
    """The MatMul or Gemm."""
    x: ir.Value | None
    tensor: ir.TensorProtocol
    transposed: bool
    """Whether `tensor` is [outputs, inputs]."""
    bias: ir.Value | None
    """A constant row, or one number."""
    beta: float = 1.0

    @property
    def inputs(self) -> int:
        return int(self.tensor.shape.numpy()[1 if self.transposed else 0])

    @property
    def outputs(self) -> int:
        return int(self.tensor.shape.numpy()[0 if self.transposed else 1])

    def weight(self) -> np.ndarray:
        array = self.tensor.numpy()
        return array.T if self.transposed else array

    def row(self, at: Rewriter) -> np.ndarray | None:
        """The bias as float64 [outputs], if there is one."""
        array = at.array(self.bias)
        if array is None:
            return None
        return np.broadcast_to(array.reshape(-1).astype(np.float64) * self.beta, (self.outputs,))

    def base(self, suffix: str) -> str:
        weight = self.node.inputs[1]
        return f"{self.node.name if weight is None else weight.name}_{suffix}"


def linear_of(node: ir.Node | None, at: Rewriter) -> Linear | None:
    """A MatMul, or a Gemm without alpha, as a product with a constant matrix."""
    if node is None or not at.is_op(node, "MatMul", "Gemm"):
        return None
    tensor = constant_tensor(node.inputs[1])
    if tensor is None or tensor.dtype not in FLOATS or len(tensor.shape) != 2:
        return None
    if constant_tensor(node.inputs[0]) is not None:
        return None
    if node.op_type == "MatMul":
        return Linear(node, node.inputs[0], tensor, False, None)
    attributes = node.attributes
    if attributes.get_int("transA", 0) or attributes.get_float("alpha", 1.0) != 1.0 or at.opset < 7:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    linear = Linear(
        node,
        node.inputs[0],
        tensor,
        bool(attributes.get_int("transB", 0)),
        bias,
        attributes.get_float("beta", 1.0),
    )
    return linear if bias is None or is_row(bias, linear.outputs, 2) else None


def is_row(value: ir.Value | None, columns: int, rank: int | None) -> bool:
    """Whether `value` is a constant that is added to each row of `columns`, or to every element.

    Args:
        rank: that of what it is added to; it does not raise it.
    """
    tensor = constant_tensor(value)
    if tensor is None:
        return False
    shape = tuple(tensor.shape.numpy())
    if len(shape) > 1 and (rank is None or len(shape) > rank):
        return False
    return tensor.size in (1, columns) and (not shape or shape[-1] == tensor.size)


def multiplied(one: np.ndarray, other: np.ndarray, equation: str) -> np.ndarray:
    """The product of two weights, in their type.

    Raises:
        DeclinedError: if it is costly, not finite, or much smaller than its factors.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(all="ignore"):
        exact = np.einsum(equation, a, b, optimize=True)
        result = exact.astype(one.dtype)
        norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not np.isfinite(result).all() or not np.isfinite(norms):
        raise DeclinedError(f"the product of the weights would not be finite in {one.dtype}")
    if norms and not float(np.linalg.norm(result.astype(np.float64))) * _CANCELLATION >= norms:
        raise DeclinedError("the product of the weights is much smaller than they are")
    return np.asarray(result)
