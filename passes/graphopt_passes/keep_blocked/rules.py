"""Operators with a blocked kernel in place of those without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dim, symbol
from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt.rewriting.axes import Reduction
from graphopt_passes.keep_blocked.blocked import fills_blocks, is_blocked

_ROI_OPTIONAL = 13
"""The opset from which a Resize may go without its region of interest."""


def _repeated_gate(node: ir.Node, at: Rewriter) -> bool:
    """Mul of an image by a number for each channel -> Mul by an image of these numbers."""
    index = next((i for i in (0, 1) if _is_gate(node.inputs[i], node.inputs[1 - i], at)), None)
    if index is None:
        return False
    gate, image = node.inputs[index], node.inputs[1 - index]
    if not is_blocked(image, at) or not is_blocked(gate, at):
        return False
    dims = at.dims(image)
    assert dims is not None
    if not fills_blocks(image, at):
        raise DeclinedError(f"{dims[1]} channels do not fill blocks")
    size = [dim for dim in dims[1:] if isinstance(dim, int)]
    if len(size) != 3:
        raise DeclinedError("the size of the image is not fixed")
    batch = _declared(dims[0], at)
    if batch is None:
        raise DeclinedError("the batch has no name, by which to tell that it is that of the image")
    at.require_operator("Resize", 11, at.dtype(gate))
    at.set_input(node, index, _repeated(gate, [batch, *size], node, at))
    return True


def _is_gate(gate: ir.Value | None, image: ir.Value | None, at: Rewriter) -> bool:
    """Whether it is an image of one pixel, with the channels of a larger one."""
    small, large = at.dims(gate), at.dims(image)
    if small is None or large is None or len(large) != 4:
        return False
    return small == (*large[:2], 1, 1) and large[2:] != (1, 1)


def _declared(dim: Dim, at: Rewriter) -> int | str | None:
    """A dimension as a shape states it: a number, or the name that an input of the model gives."""
    if isinstance(dim, int):
        return dim
    shapes = [value.shape for value in at.model.graph.inputs if value.shape is not None]
    named = [str(size.value) for shape in shapes for size in shape if not isinstance(size, int)]
    return next((name for name in named if symbol(f"'{name}'") == dim), None)


def _repeated(
    gate: ir.Value | None, shape: Sequence[int | str], node: ir.Node, at: Rewriter
) -> ir.Value:
    """`gate` as an image of `shape`, which the runtime could not tell by itself."""
    base = f"{node.outputs[0].name}_resize"
    scales = at.constant(np.array([1, 1, *shape[2:]], np.float32), f"{base}_scales", node)
    roi = None
    if at.opset < _ROI_OPTIONAL:
        roi = at.constant(np.zeros(0, np.float32), f"{base}_roi", node)
    nearest = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    image = at.insert(node, "Resize", [gate, roi, scales], nearest)
    image.shape, image.dtype = ir.Shape(shape), ir.DataType.FLOAT
    return image


def _pooled_mean(node: ir.Node, at: Rewriter) -> bool:
    """ReduceMean of an image to a vector -> GlobalAveragePool, Flatten."""
    reduction = Reduction.of(node, at)
    if reduction is None or reduction.keepdims or reduction.axes != (2, 3):
        return False
    if not fills_blocks(node.inputs[0], at) or not is_blocked(node.inputs[0], at):
        return False
    if reduction.count is None:
        raise DeclinedError("where there are no elements, GlobalAveragePool fails")
    if not (at.has_operator("GlobalAveragePool", 1) and at.has_operator("Flatten", 1)):
        return False
    at.become(node, "Flatten", [at.insert(node, "GlobalAveragePool", [node.inputs[0]])])
    return True


RULES = (
    Rule("repeated-gate", ("Mul",), _repeated_gate, ("Conv",)),
    Rule("pooled-mean", ("ReduceMean",), _pooled_mean, ("Conv",)),
)
