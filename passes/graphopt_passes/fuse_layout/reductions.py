"""Reductions with what follows them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt.rewriting.axes import REDUCTIONS, Reduction, adds, drops

# Over disjoint axes, one after the other or all at once is the same.
_MERGEABLE = ("ReduceL1", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _alone(node: ir.Node, at: Rewriter, found: ir.Node) -> None:
    """Declines unless only `node` uses what `found` gives."""
    if at.before(node, 0, found.op_type) is not found:
        raise DeclinedError(f"the result of {found.op_type} is used elsewhere as well")


def _squeeze_of_reduction(node: ir.Node, at: Rewriter) -> bool:
    """Reduce(keepdims=1) and Squeeze, Reshape or Flatten -> Reduce(keepdims=0).

    But not the mean over an image: GlobalAveragePool and Flatten are faster than one ReduceMean.
    """
    found = at.producer(node.inputs[0], *REDUCTIONS)
    reduction = None if found is None else Reduction.of(found, at)
    if found is None or reduction is None or not reduction.keepdims:
        return False
    if _is_pooling(reduction, at):
        return False
    if not drops(node, at, reduction.result(keepdims=True), reduction.axes):
        return False
    _alone(node, at, found)
    if not at.has_operator(reduction.op_type, 1):
        return False
    reduction.write(node, at, keepdims=False)
    return True


def _unsqueeze_of_reduction(node: ir.Node, at: Rewriter) -> bool:
    """Reduce(keepdims=0) and Unsqueeze or Reshape -> Reduce(keepdims=1)."""
    found = at.producer(node.inputs[0], *REDUCTIONS)
    reduction = None if found is None else Reduction.of(found, at)
    if found is None or reduction is None or reduction.keepdims:
        return False
    if not adds(node, at, reduction.result(keepdims=True), reduction.axes):
        return False
    _alone(node, at, found)
    reduction.write(node, at, keepdims=True)
    return True


def _merged_reductions(node: ir.Node, at: Rewriter) -> bool:
    """Reduce of Reduce, over other axes -> one over all of them."""
    found = at.producer(node.inputs[0], node.op_type)
    if found is None:
        return False
    outer, inner = Reduction.of(node, at), Reduction.of(found, at)
    if outer is None or inner is None or outer.keepdims != inner.keepdims:
        return False
    if node.op_type == "ReduceMean" and at.dtype(node.inputs[0]) not in _FLOATS:
        raise DeclinedError("a mean of integers is rounded")
    _alone(node, at, found)
    rest = [axis for axis in range(len(inner.dims)) if inner.keepdims or axis not in inner.axes]
    axes = tuple(sorted({*inner.axes, *(rest[axis] for axis in outer.axes)}))
    inner.write(node, at, axes=axes, keepdims=inner.keepdims)
    return True


def _mean_of_sum(node: ir.Node, at: Rewriter) -> bool:
    """ReduceSum divided by the number of its summands -> ReduceMean."""
    sides = [0] if node.op_type == "Div" else [0, 1]
    side = next((i for i in sides if at.producer(node.inputs[i], "ReduceSum")), None)
    if side is None or at.scalar(node.inputs[1 - side]) is None:
        return False
    found = at.producer(node.inputs[side], "ReduceSum")
    reduction = None if found is None else Reduction.of(found, at)
    dtype = at.dtype(node.inputs[side])
    if found is None or reduction is None or dtype not in _FLOATS:
        return False
    count = reduction.count
    if count is None or not _divides(node, at, 1 - side, count):
        return False
    if not at.keeps_shape(node.inputs[1 - side], node.inputs[side]):
        return False
    if dtype == ir.DataType.FLOAT16:
        raise DeclinedError("a sum that overflows float16 has a mean that does not")
    if at.before(node, side, "ReduceSum") is not found:
        raise DeclinedError("the sum is used elsewhere as well")
    reduction.write(node, at, keepdims=reduction.keepdims, op_type="ReduceMean")
    return True


def _divides(node: ir.Node, at: Rewriter, index: int, count: int) -> bool:
    """Whether the constant input `index` of a Div or Mul makes it a division by `count`."""
    if node.op_type == "Div":
        return at.is_number(node.inputs[index], count)
    number = at.small(node.inputs[index])
    return number is not None and number.reshape(-1)[0] == np.asarray(1 / count, number.dtype)


def _global_average_pool(node: ir.Node, at: Rewriter) -> bool:
    """ReduceMean over height and width (and depth), which stay -> GlobalAveragePool.

    Not of three dimensions: the mean over the last axis of (batch, sequence, features) is none. Nor
    the mean and the variance of a normalization, which others look for.
    """
    reduction = Reduction.of(node, at)
    if reduction is None or not reduction.keepdims or not _is_mean_of_image(reduction, at):
        return False
    if not _is_pooling(reduction, at):
        raise DeclinedError("where there are no elements, GlobalAveragePool fails")
    if any(at.is_op(use.node, "Add", "Sqrt", "Sub") for use in node.outputs[0].uses()):
        return False
    if not at.has_operator("GlobalAveragePool", 1):
        return False
    at.become(node, "GlobalAveragePool", [node.inputs[0]])
    return True


def _is_pooling(reduction: Reduction, at: Rewriter) -> bool:
    """Whether it is, or will be, a GlobalAveragePool: there are channels, and pixels of them."""
    channels = reduction.dims[1] if _is_mean_of_image(reduction, at) else 0
    return isinstance(channels, int) and channels > 0 and reduction.count is not None


def _is_mean_of_image(reduction: Reduction, at: Rewriter) -> bool:
    """Whether it is a mean over height and width (and depth), of a type that runtimes pool."""
    rank = len(reduction.dims)
    return (
        reduction.op_type == "ReduceMean"
        and rank in (4, 5)
        and reduction.axes == tuple(range(2, rank))
        and at.dtype(reduction.node.inputs[0]) in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    )


RULES = (
    Rule("squeeze-of-reduction", ("Squeeze", "Reshape", "Flatten"), _squeeze_of_reduction),
    Rule("unsqueeze-of-reduction", ("Unsqueeze", "Reshape"), _unsqueeze_of_reduction),
    Rule("merge-reductions", _MERGEABLE, _merged_reductions),
    Rule("mean-of-sum", ("Div", "Mul"), _mean_of_sum, ("ReduceSum", "Einsum")),
    Rule("global-average-pool", ("ReduceMean",), _global_average_pool),
)
