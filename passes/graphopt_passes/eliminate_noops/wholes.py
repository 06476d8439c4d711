"""All of a tensor, in its order: what takes parts of it, or sums it up, without effect."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dim
from graphopt.rewriting import Rewriter, Rule
from graphopt.rewriting.axes import Reduction, axes_for
from graphopt_passes.eliminate_noops.handing import noops
from graphopt_passes.eliminate_noops.strided import unflattened

_MAX_ELEMENTS = 1 << 12


def _counts(value: ir.Value | None, count: Dim, at: Rewriter) -> bool:
    """Whether `value` is the Range 0, 1, ..., `count` - 1; `count` may be a symbol."""
    node = at.producer(value, "Range")
    if node is None:
        return False
    ends = [at.facts[bound].items for bound in node.inputs]
    return ends == [(0,), (count,), (1,)]


def _gather(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Gather along an axis by a Range over it, or of a flattened tensor by all its places."""
    if at.producer(node.inputs[1], "Range") is None:
        return unflattened(node, at)
    dims = at.dims(node.inputs[0])
    axis: int = node.attributes.get_int("axis", 0)
    if not dims or not -len(dims) <= axis < len(dims):
        return None
    return node.inputs[0] if _counts(node.inputs[1], dims[axis], at) else None


def _scatter_nd(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """The updates, where they overwrite a Range over the first axis."""
    column = at.producer(node.inputs[1], "Unsqueeze", "Reshape")
    if column is None or node.attributes.get_string("reduction", "none") != "none":
        return None
    dims = at.dims(node.inputs[0])
    if not dims or dims != at.dims(node.inputs[2]) or at.dims(node.inputs[1]) != (dims[0], 1):
        return None
    return node.inputs[2] if _counts(column.inputs[0], dims[0], at) else None


def _gather_nd(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """By all index tuples of the first axes, in order."""
    dims, shape = at.dims(node.inputs[0]), at.dims(node.inputs[1])
    batch: int = node.attributes.get_int("batch_dims", 0)
    if not dims or not shape or batch:
        return None
    sizes = [dim for dim in shape if isinstance(dim, int) and 0 < dim <= _MAX_ELEMENTS]
    if len(sizes) != len(shape) or int(np.prod(sizes)) > _MAX_ELEMENTS:
        return None
    if len(shape) != sizes[-1] + 1 or dims[: sizes[-1]] != shape[:-1]:
        return None
    indices = at.array(node.inputs[1])
    grid = np.moveaxis(np.indices(sizes[:-1]), 0, -1)
    return node.inputs[0] if indices is not None and np.array_equal(indices, grid) else None


def _trilu(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """The triangle that is all of the matrix."""
    dims = at.dims(node.inputs[0])
    offset = at.facts[node.inputs[1]].ints() if len(node.inputs) > 1 and node.inputs[1] else [0]
    if dims is None or len(dims) < 2 or offset is None:
        return None
    upper: int = node.attributes.get_int("upper", 1)
    rows, columns = dims[-2:]
    if upper:
        fits = isinstance(rows, int) and offset[0] <= 1 - rows
    else:
        fits = isinstance(columns, int) and offset[0] >= columns - 1
    return node.inputs[0] if fits else None


def _einsum(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """One operand that keeps its axes."""
    equation: str = node.attributes.get_string("equation", "")
    left, _, right = equation.replace(" ", "").partition("->")
    letters = left.replace("...", "", 1)
    same = len(node.inputs) == 1 and left == right and len(set(letters)) == len(letters)
    return node.inputs[0] if same else None


def _running_sum(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Along an axis of one element."""
    dims, axis = at.dims(node.inputs[0]), at.facts[node.inputs[1]].ints()
    if not dims or not axis or not -len(dims) <= axis[0] < len(dims) or dims[axis[0]] != 1:
        return None
    return None if node.attributes.get_int("exclusive", 0) else node.inputs[0]


def _reduction(node: ir.Node, at: Rewriter) -> bool:
    """The greatest or least over axes of one element that go: a Squeeze."""
    reduction = Reduction.of(node, at)
    if reduction is None or reduction.keepdims or not at.has_operator("Squeeze", 1):
        return False
    if any(reduction.dims[axis] != 1 for axis in reduction.axes):
        return False
    inputs, named = axes_for(at, "Squeeze", reduction.axes, node)
    at.become(node, "Squeeze", [node.inputs[0], *inputs], named)
    return True


RULES = (
    *noops(_gather, "Gather"),
    *noops(_scatter_nd, "ScatterND"),
    *noops(_gather_nd, "GatherND"),
    *noops(_trilu, "Trilu"),
    *noops(_einsum, "Einsum"),
    *noops(_running_sum, "CumSum"),
    Rule("reduction-to-squeeze", ("ReduceMax", "ReduceMin"), _reduction),
)
