"""A product of a tensor that is made a matrix for it, and then a tensor again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.scaling import cast
from graphopt_passes.fuse_gemm.linear import MAX_COPY, Linear, linear_of

# The products that may share one matrix.
_MOST_USERS = 8


def drop_reshapes(node: ir.Node, at: Rewriter) -> bool:
    """Reshape -> Gemm or MatMul -> Reshape becomes MatMul (-> Add)."""
    value = node.inputs[0]
    if at.producer(value, "Gemm", "MatMul") is None:
        return False
    if not (at.has_operator("MatMul", 1) and at.has_operator("Add", 7)):
        return False
    linear = linear_of(at.before(node, 0, "Gemm", "MatMul"), at)
    flat = None if linear is None else at.producer(linear.x, "Reshape", "Flatten")
    if linear is None or flat is None or not _serves_products(flat):
        return False
    if linear.node.op_type == "MatMul" and at.rank(linear.x) != 2:
        return False
    x = flat.inputs[0]
    dims = at.dims(x)
    if dims is None or len(dims) < 3 or dims[-1] != linear.inputs:
        return False
    if at.dims(node.outputs[0]) != (*dims[:-1], linear.outputs):
        return False
    _write(node, linear, x, at)
    return True


def _serves_products(flat: ir.Node) -> bool:
    """Whether each use of the matrix is a product, which may lose its Reshapes in turn."""
    uses = flat.outputs[0].uses()
    if len(uses) > _MOST_USERS or flat.outputs[0].is_graph_output():
        return False
    return all(use.node.op_type in ("Gemm", "MatMul") and use.idx == 0 for use in uses)


def _write(node: ir.Node, linear: Linear, x: ir.Value | None, at: Rewriter) -> None:
    row = linear.row(at)
    dtype = linear.tensor.dtype.numpy()
    shift = None if row is None else cast(np.array(row), dtype, "the bias")
    weight = linear.node.inputs[1]
    if linear.transposed:
        if linear.tensor.nbytes > MAX_COPY and not at.owns(linear.node, 1):
            raise DeclinedError("other nodes share the weight, which would have to be transposed")
        turned = np.ascontiguousarray(linear.weight())
        weight = at.constant(turned, linear.base("transposed"), node)
    if shift is None:
        at.become(node, "MatMul", [x, weight])
        return
    product = at.insert(node, "MatMul", [x, weight])
    at.become(node, "Add", [product, at.constant(shift, linear.base("bias"), node)])
