"""The rules, in the order in which they are tried."""

from __future__ import annotations

import math

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt_passes.fuse_pad.pads import Padding, padding_of

_FLOATS = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.DOUBLE,
    ir.DataType.BFLOAT16,
)

# What these give is never negative (or NaN, which wins in any MaxPool).
_NOT_NEGATIVE = (
    *("Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu"),
    *("Sigmoid", "Softmax", "Softplus"),
)


def into_conv(node: ir.Node, at: Rewriter) -> bool:
    """Pad -> Conv."""
    pad = _pad_before(node, at)
    dims = at.dims(node.inputs[1]) if pad is not None and len(node.inputs) > 1 else None
    if pad is None or dims is None or len(dims) < 3:
        return False
    padding = padding_of(pad, len(dims) - 2, at)
    if padding.value != 0:
        raise DeclinedError(f"it pads with {padding.value:g}, a Conv does with 0")
    _take_in(node, pad, padding, at)
    return True


def into_average_pool(node: ir.Node, at: Rewriter) -> bool:
    """Pad -> AveragePool, which counts the zeros as the rest."""
    pad = _pad_before(node, at)
    kernel = _kernel(node)
    if pad is None or not kernel or at.opset < 7:
        return False
    padding = padding_of(pad, len(kernel), at)
    if padding.value != 0:
        raise DeclinedError(f"it pads with {padding.value:g}, an AveragePool does with 0")
    if any(_own_pads(node, len(kernel))) and not node.attributes.get_int("count_include_pad", 0):
        raise DeclinedError("the AveragePool counts these zeros, but not those of its own pads")
    _require_plain_pool(node, padding, kernel)
    _take_in(node, pad, padding, at, count_include_pad=1)
    return True


def into_max_pool(node: ir.Node, at: Rewriter) -> bool:
    """Pad -> MaxPool."""
    pad = _pad_before(node, at)
    kernel = _kernel(node)
    if pad is None or not kernel or not at.is_lone(node):
        return False
    padding = padding_of(pad, len(kernel), at)
    if padding.value != -math.inf and not (padding.value == 0 and _is_not_negative(pad, at)):
        raise DeclinedError(
            f"it pads with {padding.value:g}, a MaxPool does with minus infinity, and what is "
            "before it may be less"
        )
    _require_plain_pool(node, padding, kernel)
    _take_in(node, pad, padding, at)
    return True


def _pad_before(node: ir.Node, at: Rewriter) -> ir.Node | None:
    """The Pad of floating-point numbers that works for `node` alone."""
    if not node.inputs or not at.is_op(node, node.op_type):
        return None
    pad = at.producer(node.inputs[0], "Pad")
    if pad is None or at.opset < 2 or at.dtype(node.inputs[0]) not in _FLOATS:
        return None
    if at.before(node, 0, "Pad") is None:
        raise DeclinedError("the padded value is used elsewhere too")
    return pad


def _kernel(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("kernel_shape", ()))


def _own_pads(node: ir.Node, spatial: int) -> list[int]:
    if node.attributes.get_string("auto_pad", "NOTSET") == "VALID":
        return [0] * (2 * spatial)
    return list(node.attributes.get_ints("pads", [0] * (2 * spatial)))


def _is_not_negative(pad: ir.Node, at: Rewriter) -> bool:
    """Whether what is padded is surely 0 or more."""
    value = pad.inputs[0]
    if at.producer(value, *_NOT_NEGATIVE) is not None:
        return True
    clip = at.producer(value, "Clip")
    if clip is None:
        return False
    if at.opset < 11:
        return float(clip.attributes.get_float("min", -math.inf)) >= 0
    low = at.scalar(clip.inputs[1]) if len(clip.inputs) > 1 else None
    high = at.scalar(clip.inputs[2]) if len(clip.inputs) > 2 and clip.inputs[2] else math.inf
    return low is not None and high is not None and low >= 0 and high >= 0


def _require_plain_pool(node: ir.Node, padding: Padding, kernel: tuple[int, ...]) -> None:
    """Declines what would round differently, or make windows of padding only."""
    if node.attributes.get_int("ceil_mode", 0):
        raise DeclinedError(f"the {node.op_type} rounds its size up (ceil_mode)")
    if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", ())):
        raise DeclinedError(f"the {node.op_type} is dilated")
    own = _own_pads(node, len(kernel))
    total = [a + b for a, b in zip(own, (*padding.begins, *padding.ends), strict=True)]
    if any(amount >= size for amount, size in zip(total, (*kernel, *kernel), strict=True)):
        raise DeclinedError(f"the {node.op_type} would pad a whole window")


def _take_in(node: ir.Node, pad: ir.Node, padding: Padding, at: Rewriter, **more: int) -> None:
    """`node` pads by itself what `pad` did."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        raise DeclinedError(f"the {node.op_type} works out its own padding (auto_pad {mode})")
    own = _own_pads(node, len(padding.begins))
    if len(own) != 2 * len(padding.begins) or min(own) < 0:
        raise DeclinedError(f"the {node.op_type} has pads of its own for other axes")
    pads = [a + b for a, b in zip(own, (*padding.begins, *padding.ends), strict=True)]
    attributes = {**node.attributes, "pads": pads, **more}
    attributes.pop("auto_pad", None)
    at.become(node, node.op_type, [pad.inputs[0], *node.inputs[1:]], attributes)


RULES = (
    Rule("pad-conv", ("Conv",), into_conv, ("Pad",)),
    Rule("pad-average-pool", ("AveragePool",), into_average_pool, ("Pad",)),
    Rule("pad-max-pool", ("MaxPool",), into_max_pool, ("Pad",)),
)
