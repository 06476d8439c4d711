"""What nodes say about axes, whether in attributes or in inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.rewriting.rewriter import Attributes, Rewriter

# The opset in which the axes of each operator became an input.
AXES_AS_INPUT = {
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), 13),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"), 18),
    **dict.fromkeys(("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"), 18),
}
SELECTIONS = ("ArgMax", "ArgMin")
REDUCTIONS = (*(name for name in AXES_AS_INPUT if name.startswith("Reduce")), *SELECTIONS)


def axes_of(node: ir.Node, at: Rewriter, rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction, Squeeze or Unsqueeze, sorted and from 0; () if it names none."""
    axes = at.ints(node, 1, "axes", AXES_AS_INPUT[node.op_type])
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        return None
    return tuple(sorted({axis % rank for axis in axes}))


@dataclass(frozen=True)
class Reduction:
    """A reduction, ArgMax or ArgMin of a value of known rank."""

    node: ir.Node
    op_type: str
    dims: Dims
    """Those of its input."""
    axes: tuple[int, ...]
    """Sorted, from 0; never empty."""
    keepdims: bool

    @staticmethod
    def of(node: ir.Node, at: Rewriter) -> Reduction | None:
        """None if it is not known what `node` reduces."""
        dims = at.dims(node.inputs[0])
        if not dims:
            return None
        keepdims = node.attributes.get_int("keepdims", 1) != 0
        if node.op_type in SELECTIONS:
            axis: int = node.attributes.get_int("axis", 0)
            if not -len(dims) <= axis < len(dims):
                return None
            return Reduction(node, node.op_type, dims, (axis % len(dims),), keepdims)
        axes = axes_of(node, at, len(dims))
        noop: int = node.attributes.get_int("noop_with_empty_axes", 0)
        if axes is None or (not axes and noop):
            return None
        return Reduction(node, node.op_type, dims, axes or tuple(range(len(dims))), keepdims)

    @property
    def count(self) -> int | None:
        """How many elements are reduced to one, if that is known and not 0."""
        extents = [self.dims[axis] for axis in self.axes]
        numbers = [extent for extent in extents if isinstance(extent, int) and extent > 0]
        return math.prod(numbers) if len(numbers) == len(extents) else None

    def result(self, keepdims: bool) -> Dims:
        """The dimensions of what it gives."""
        return kept(self.dims, self.axes) if keepdims else dropped(self.dims, self.axes)

    def write(
        self,
        target: ir.Node,
        at: Rewriter,
        *,
        axes: tuple[int, ...] | None = None,
        keepdims: bool,
        op_type: str | None = None,
    ) -> None:
        """Makes `target` this reduction, over `axes` of the same input."""
        axes, op_type = axes or self.axes, op_type or self.op_type
        source, attributes = self.node.inputs[0], {"keepdims": int(keepdims)}
        if op_type in SELECTIONS:
            last: int = self.node.attributes.get_int("select_last_index", 0)
            attributes |= {"axis": axes[0]} | ({"select_last_index": 1} if last else {})
            at.become(target, op_type, [source], attributes)
            return
        inputs, named = axes_for(at, op_type, axes, target)
        at.become(target, op_type, [source, *inputs], {**named, **attributes})


def axes_for(
    at: Rewriter, op_type: str, axes: Sequence[int], before: ir.Node
) -> tuple[list[ir.Value], Attributes]:
    """Further inputs, and attributes, by which `op_type` is told of `axes`."""
    if at.opset < AXES_AS_INPUT[op_type]:
        return [], {"axes": list(axes)}
    name = f"{before.outputs[0].name}_axes"
    return [at.constant(np.array(axes, np.int64), name, before)], {}


def dropped(dims: Dims, axes: Collection[int]) -> Dims:
    return tuple(dim for axis, dim in enumerate(dims) if axis not in axes)


def kept(dims: Dims, axes: Collection[int]) -> Dims:
    return tuple(1 if axis in axes else dim for axis, dim in enumerate(dims))


def drops(node: ir.Node, at: Rewriter, before: Dims, axes: tuple[int, ...]) -> bool:
    """Whether a Squeeze, Reshape or Flatten of dimensions `before` drops exactly `axes`, all 1."""
    if node.op_type != "Squeeze":
        return at.dims(node.outputs[0]) == dropped(before, axes)
    named = axes_of(node, at, len(before))
    if named == () and all(isinstance(dim, int) for dim in before):
        named = tuple(axis for axis, dim in enumerate(before) if dim == 1)
    return named == axes


def adds(node: ir.Node, at: Rewriter, after: Dims, axes: tuple[int, ...]) -> bool:
    """Whether an Unsqueeze or Reshape gives the dimensions `after` by adding exactly `axes`."""
    if node.op_type == "Unsqueeze":
        return axes_of(node, at, len(after)) == axes
    return at.dims(node.outputs[0]) == after
