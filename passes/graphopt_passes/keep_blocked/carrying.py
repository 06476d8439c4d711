"""What operators do with the channels of images: make them, carry them on, sum over them.

Only operators are here that turn finite numbers into finite ones, each channel by itself, or that
sum over channels with a constant weight for each: what a channel holds that all weights leave out
does not matter then, as long as it is a finite number.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt.rewriting.axes import Reduction, drops
from graphopt_passes.keep_blocked.blocked import REORDERED
from graphopt_passes.keep_blocked.sharing import Sharing, Slot


def _conv(node: ir.Node, sharing: Sharing) -> None:
    at, x, y = sharing.at, node.inputs[0], node.outputs[0]
    weight = at.dims(node.inputs[1])
    if weight is None or len(weight) != 4 or at.dtype(node.inputs[1]) != ir.DataType.FLOAT:
        return
    biases = [index for index, value in enumerate(node.inputs) if index > 1 and value is not None]
    if not at.owns(node, 1) or not all(at.is_constant(node.inputs[i]) for i in (1, *biases)):
        return
    groups: int = node.attributes.get_int("group", 1)
    if groups != 1 and (weight[1] != 1 or weight[0] != groups):
        return
    assert x is not None
    if groups == 1:
        sharing.reads(node)
        sharing.makes(node)
        sharing.holds(x, Slot(node, 1, 1))
    else:
        sharing.carries(node, 0)
    sharing.wants(x, REORDERED)
    for index in (1, *biases):
        sharing.holds(y, Slot(node, index, 0))


def _matrix(node: ir.Node, sharing: Sharing) -> None:
    """Gemm or MatMul of vectors that were images of one pixel."""
    at, x = sharing.at, node.inputs[0]
    turned: int = node.attributes.get_int("transB", 0)
    if node.attributes.get_int("transA", 0) or at.rank(x) != 2 or at.rank(node.inputs[1]) != 2:
        return
    if at.is_constant(node.inputs[1]) and at.owns(node, 1):
        assert x is not None
        sharing.reads(node)
        sharing.holds(x, Slot(node, 1, 1 if turned else 0))


def _each(node: ir.Node, sharing: Sharing) -> None:
    """An activation; further inputs are numbers, if there are any."""
    sharing.carries(node, 0)


def _both(node: ir.Node, sharing: Sharing) -> None:
    """Images, and constants that have a number for all channels, or one for each."""
    at, y = sharing.at, node.outputs[0]
    images = [index for index, value in enumerate(node.inputs) if not at.is_constant(value)]
    channels, values = sharing.channels(y), [node.inputs[index] for index in images]
    if not images or any(at.rank(v) != 4 or sharing.channels(v) != channels for v in (*values, y)):
        return
    for index in {0, 1} - set(images):
        dims = at.dims(node.inputs[index])
        number = at.scalar(node.inputs[index])
        if number is not None and np.isfinite(number):
            continue
        if dims is None or len(dims) < 3 or dims[-3:] != (channels, 1, 1) or set(dims[:-3]) - {1}:
            return
        sharing.holds(y, Slot(node, index, len(dims) - 3))
    sharing.carries(node, *images)
    if len({at.dims(value) for value in values}) > 1:  # a gate
        sharing.wants(y, at.context.target.blocked_channels)


def _pool(node: ir.Node, sharing: Sharing) -> None:
    dims = sharing.at.dims(node.inputs[0])
    if dims is not None and len(dims) == 4:
        sharing.carries(node, 0)
        if dims[2:] != (1, 1):
            sharing.wants(node.outputs[0], sharing.at.context.target.blocked_channels)


def _mean(node: ir.Node, sharing: Sharing) -> None:
    reduction = Reduction.of(node, sharing.at)
    if reduction is not None and reduction.axes == (2, 3):
        _pool(node, sharing)


def _vector(node: ir.Node, sharing: Sharing) -> None:
    """Flatten, Reshape or Squeeze that makes a vector of an image of one pixel."""
    dims = sharing.at.dims(node.inputs[0])
    if dims is None or dims[2:] != (1, 1) or not drops(node, sharing.at, dims, (2, 3)):
        return
    if node.op_type != "Reshape" or sharing.at.has_operator("Flatten", 1):  # it becomes one
        sharing.carries(node, 0)


def _resize(node: ir.Node, sharing: Sharing) -> None:
    """One that says by which factors, and leaves channels alone."""
    if len(node.inputs) != 3 or "axes" in node.attributes:
        return
    if node.attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize":
        return
    scales = sharing.at.array(node.inputs[2])
    if scales is not None and scales.shape == (4,) and np.all(scales[:2] == 1):
        sharing.carries(node, 0)


def _normalized(node: ir.Node, sharing: Sharing) -> None:
    """BatchNormalization: (x, scale, bias, mean, variance)."""
    at, channels = sharing.at, sharing.channels(node.inputs[0])
    for value in node.inputs[1:]:
        if not at.is_constant(value) or at.dims(value) != (channels,):
            return
    if node.attributes.get_int("training_mode", 0) or at.rank(node.inputs[0]) != 4:
        return
    sharing.carries(node, 0)
    for index, fill in enumerate((0.0, 0.0, 0.0, 1.0), start=1):
        sharing.holds(node.outputs[0], Slot(node, index, 0, fill))


RULES: dict[str, Callable[[ir.Node, Sharing], None]] = {
    **dict.fromkeys(("Clip", "HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Tanh"), _each),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
    **dict.fromkeys(("Add", "Mul"), _both),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), _vector),
    **dict.fromkeys(("Gemm", "MatMul"), _matrix),
    "BatchNormalization": _normalized,
    "Conv": _conv,
    "ReduceMean": _mean,
    "Resize": _resize,
}
