"""Reductions, poolings and resizings that look at one element at a time."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt.rewriting.axes import axes_of
from graphopt_passes.eliminate_noops.handing import noops
from graphopt_passes.eliminate_noops.neutral import is_filled

_REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean", "ReduceSum")
_INEXACT = "runtimes add the one element to +0.0, which takes the sign of a -0.0"

# Where an element of a tensor that keeps its size comes from its own place.
_IN_PLACE = (
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
)


def _reduction(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """Over no axes, or over axes of one element that stay.

    The other reductions are not exact where they have one element, or apply a function to it.
    """
    value = node.inputs[0]
    if node.attributes.get_int("noop_with_empty_axes", 0):
        since = 13 if node.op_type == "ReduceSum" else 18
        named = at.ints(node, 1, "axes", since)
        if named is None or not named:
            return None if named is None else value
    dims = at.dims(value)
    axes = None if dims is None else axes_of(node, at, len(dims))
    if dims is None or axes is None or (dims and not node.attributes.get_int("keepdims", 1)):
        return None
    if any(dims[axis] != 1 for axis in axes or range(len(dims))):
        return None
    if node.op_type in ("ReduceMax", "ReduceMin"):
        return value
    dtype = at.dtype(value)
    if dtype is None or (dtype.is_integer() and dtype.bitwidth > 32):
        return None  # runtimes round it to a float on the way
    if node.op_type != "ReduceProd" and not dtype.is_integer():
        raise DeclinedError(_INEXACT)
    return value


def _pool(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """A window of one element at every place.

    Runtimes pool a single place, and one or three dimensions, by starting from the least number or
    +0.0: that takes NaN and infinities, or signs of zeros.
    """
    attributes = node.attributes
    kernel = tuple(attributes.get_ints("kernel_shape", ()))
    if not kernel or {*kernel, *attributes.get_ints("strides", ())} != {1}:
        return None
    if any(attributes.get_ints("pads", ())):
        return None
    places = (at.dims(node.inputs[0]) or ())[2:]
    dtype = at.dtype(node.inputs[0])
    if dtype is not None and dtype.is_integer():
        return node.inputs[0]
    if len(places) != 2 or not any(isinstance(size, int) and size > 1 for size in places):
        raise DeclinedError("runtimes may lose NaN, infinities or signs of zeros in it")
    return node.inputs[0]


def _resize(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """To the own size, or by scales of 1."""
    places = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if at.opset >= 11 and places not in _IN_PLACE:
        return None
    index = 2 if at.opset >= 11 else 1
    scales = node.inputs[index] if len(node.inputs) > index else None
    if scales is not None and at.dims(scales) != (0,):  # opset 11 has empty ones for none
        return node.inputs[0] if is_filled(scales, 1, at) else None
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    dims = at.dims(node.inputs[0])
    if sizes is None or dims is None:
        return None
    named = node.attributes.get_ints("axes", range(len(dims)))
    if not all(-len(dims) <= axis < len(dims) for axis in named):
        return None
    own = at.facts[sizes].items == tuple(dims[axis] for axis in named)
    return node.inputs[0] if own else None


def _upsample(node: ir.Node, at: Rewriter) -> ir.Value | None:
    if at.opset >= 9:
        return node.inputs[0] if is_filled(node.inputs[1], 1, at) else None
    scales = set(node.attributes.get_floats("scales", ()))
    return node.inputs[0] if scales == {1.0} else None


RULES = (
    *noops(_reduction, *_REDUCTIONS),
    *noops(_pool, "AveragePool", "MaxPool"),
    *noops(_resize, "Resize"),
    *noops(_upsample, "Upsample"),
)
