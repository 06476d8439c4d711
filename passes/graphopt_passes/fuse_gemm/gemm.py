"""What goes into a Gemm: a bias, a transposed operand, a factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_gemm.linear import FLOATS

# Before, a Gemm must have a bias.
_WITHOUT_BIAS = 11


def add_bias(node: ir.Node, at: Rewriter) -> bool:
    """MatMul + Add, or Gemm without a bias + Add -> Gemm."""
    index = _product_index(node, at)
    if index is None or not at.has_operator("Gemm", 7):
        return False
    bias = node.inputs[1 - index]
    if not _is_bias(bias, node, at):
        return False
    product = at.before(node, index, "MatMul", "Gemm")
    if product is None:
        raise DeclinedError("the product is used elsewhere too, or an output of the graph")
    if not at.keeps_shape(bias, node.inputs[index]):
        raise DeclinedError("its bias would broadcast the product")
    if node.op_type == "Sub":
        array = at.array(bias)
        if array is None:
            return False
        bias = at.constant(np.asarray(-array), f"{bias.name if bias else node.name}_negated", node)
    attributes = dict(product.attributes)
    attributes.pop("beta", None)
    at.become(node, "Gemm", [*product.inputs[:2], bias], attributes)
    return True


def _product_index(node: ir.Node, at: Rewriter) -> int | None:
    """The input of an Add, or the first of a Sub, that is a product of matrices without a bias."""
    if len(node.inputs) != 2 or at.opset < 7:
        return None
    for index in (0,) if node.op_type == "Sub" else (0, 1):
        product = at.producer(node.inputs[index], "MatMul", "Gemm")
        if product is not None and _takes_bias(product, at):
            return index
    return None


def _takes_bias(product: ir.Node, at: Rewriter) -> bool:
    if product.op_type == "Gemm":
        has_bias = len(product.inputs) > 2 and product.inputs[2] is not None
        return not has_bias and at.dtype(product.inputs[0]) in FLOATS
    return _are_matrices(product, at)


def _are_matrices(product: ir.Node, at: Rewriter) -> bool:
    """Whether both operands are surely matrices of floating-point numbers."""
    return (
        at.rank(product.inputs[1]) == 2
        and at.rank(product.inputs[0]) == 2
        and at.dtype(product.inputs[0]) in FLOATS
    )


def _is_bias(value: ir.Value | None, node: ir.Node, at: Rewriter) -> bool:
    """Whether `value` is meant as a bias: a constant, or a row; a residual stays an Add."""
    if at.is_constant(value):
        return True
    dims = at.dims(value)
    is_row = dims is not None and (len(dims) < 2 or (len(dims) == 2 and dims[0] == 1))
    return is_row and node.op_type == "Add"


def take_transpose(node: ir.Node, at: Rewriter) -> bool:
    """A Transpose of an operand of a Gemm, or of a MatMul of matrices -> transA, transB."""
    if not at.is_op(node, node.op_type):
        return False
    for index, name in enumerate(("transA", "transB")):
        value = node.inputs[index]
        transpose = at.producer(value, "Transpose")
        if transpose is None or not _swaps(transpose):
            continue
        if node.op_type == "MatMul" and not _is_gemm(node, at):
            return False
        if at.before(node, index, "Transpose") is None:
            raise DeclinedError("the transposed operand is used elsewhere too")
        inputs = list(node.inputs)
        inputs[index] = transpose.inputs[0]
        turned = 1 - node.attributes.get_int(name, 0)
        attributes = {key: a for key, a in node.attributes.items() if key != name}
        at.become(node, "Gemm", inputs, {**attributes, name: 1} if turned else attributes)
        return True
    return False


def _is_gemm(node: ir.Node, at: Rewriter) -> bool:
    """Whether the MatMul `node` can be a Gemm without a bias."""
    return at.has_operator("Gemm", _WITHOUT_BIAS) and _are_matrices(node, at)


def _swaps(transpose: ir.Node) -> bool:
    """Whether it exchanges the axes of a matrix, which its output must be."""
    return tuple(transpose.attributes.get_ints("perm", (1, 0))) == (1, 0)


def take_factor(node: ir.Node, at: Rewriter) -> bool:
    """c * (A @ B) and (A @ B) / c of two activations -> alpha, and beta."""
    found = at.operands(node, at.is_constant)
    if found is None or (node.op_type == "Div" and found[0] == 0) or at.opset < 7:
        return False
    constant, index = found
    product = at.producer(node.inputs[index], "Gemm", "MatMul")
    factor = at.scalar(node.inputs[constant])
    if product is None or factor is None or at.is_constant(product.inputs[1]):
        return False
    if at.producer(product.inputs[1], "DequantizeLinear") is not None:
        return False
    if product.op_type == "MatMul" and not _is_gemm(product, at):
        return False
    if at.dtype(product.inputs[0]) not in FLOATS:
        return False
    if not at.keeps_shape(node.inputs[constant], node.inputs[index]):
        return False
    if at.before(node, index, "Gemm", "MatMul") is None:
        raise DeclinedError("the product is used elsewhere too, or an output of the graph")
    has_bias = len(product.inputs) > 2 and product.inputs[2] is not None
    attributes: dict[str, Any] = dict(product.attributes)
    for name in ("alpha", "beta") if has_bias else ("alpha",):
        old = product.attributes.get_float(name, 1.0)
        attributes[name] = _attribute(old, factor, node, at)
    at.become(node, "Gemm", product.inputs, attributes)
    return True


def _attribute(old: float, factor: float, node: ir.Node, at: Rewriter) -> float:
    """`old` times or divided by `factor` as an attribute, which is a float32."""
    with np.errstate(all="ignore"):
        exact = np.float64(old) * factor if node.op_type == "Mul" else np.float64(old) / factor
        stored = float(np.float32(exact))
    if not np.isfinite(stored) or (exact and abs(stored) < np.finfo(np.float32).tiny):
        raise DeclinedError("the factor does not fit an attribute")
    if at.dtype(node.outputs[0]) == ir.DataType.DOUBLE and stored != exact:
        raise DeclinedError("an attribute is too short for a factor of type double")
    return stored
