"""The operators that a Transpose can move through, and what changes in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt_passes.push_transposes.perms import Perm

Change: TypeAlias = "tuple[Mapping[str, Any], Mapping[int, list[int]]]"
"""The attributes that change, and the inputs that become another list of integers."""
NOTHING: Change = ({}, {})

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike"),
    *("Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not"),
    *("Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
VARIADIC = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
ARGUMENTS = ("ArgMax", "ArgMin")
# By its default axis.
ALONG_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "Concat": 0, "Split": 0}
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def data_inputs(node: ir.Node) -> range:
    """The inputs of `node` that have the layout of its output; the others are parameters."""
    if node.op_type in VARIADIC or node.op_type == "Concat":
        return range(len(node.inputs))
    return range(min(1, len(node.inputs)))


def is_movable(node: ir.Node, at: Rewriter) -> bool:
    """Whether `node` gives the same numbers, to the bit, in another layout.

    Sums of floats depend on the order in which they are added up, and the sign of a zero that is
    the greatest number on which zero came first.
    """
    op = node.op_type
    if op in VARIADIC:
        return at.opset >= 8
    if op in ("Softmax", "LogSoftmax", "Hardmax"):
        return at.opset >= 13  # before, they take all axes from "axis" on as one
    if op in REDUCTIONS:
        dtype = at.dtype(node.inputs[0])
        return dtype is not None and dtype.is_integer()
    if op == "Concat":
        return at.opset >= 4
    return True


def raw_axes(node: ir.Node, at: Rewriter) -> list[int] | None:
    """The axes of `node` as they are written, [] if none; None if they are not constant."""
    op = node.op_type
    if op in ARGUMENTS or op == "Gather":
        return [node.attributes.get_int("axis", 0)]
    since = 13 if op in ("Squeeze", "Unsqueeze", "ReduceSum") else 18
    return integers(node, 1, "axes", since, at)


def axes(node: ir.Node, rank: int, at: Rewriter) -> list[int] | None:
    """The axes that a Squeeze, Unsqueeze, reduction or Gather treats, of `rank`, from the front."""
    written = raw_axes(node, at)
    if written is None or (not written and node.op_type not in REDUCTIONS):
        return None
    if not written:
        return None if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return normal(written, rank)


def keeps_rank(node: ir.Node, at: Rewriter) -> bool:
    """Whether the output of a node that treats `axes` has the rank of its first input."""
    if node.op_type == "Gather":
        return at.rank(node.inputs[1]) == 1
    keepdims: int = node.attributes.get_int("keepdims", 1)
    return node.op_type != "Squeeze" and keepdims != 0


def normal(axes: Sequence[int], rank: int) -> list[int] | None:
    if not all(-rank <= axis < rank for axis in axes):
        return None
    places = [axis % rank for axis in axes]
    return places if len(set(places)) == len(places) else None


def integers(
    node: ir.Node, index: int, attribute: str, since: int, at: Rewriter
) -> list[int] | None:
    """A constant list of integers that became input `index` in opset `since`.

    Empty if it is left out; None if it is not constant.
    """
    if at.opset < since:
        return list(node.attributes.get_ints(attribute, ()))
    value = node.inputs[index] if index < len(node.inputs) else None
    array = at.small(value)
    if value is None:
        return []
    return None if array is None else [int(item) for item in array.reshape(-1)]


def change(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    """What changes in `node` if its first output is now Transpose(v, perm) of what it will be.

    For operators that remove axes, its first input is.
    """
    if node.op_type in UNARY or node.op_type in VARIADIC:
        return NOTHING
    finder = _CHANGES.get(node.op_type)
    return None if finder is None else finder(node, perm, at)


def _along_axis(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    axis: int = node.attributes.get_int("axis", ALONG_AXIS[node.op_type])
    places = normal([axis], len(perm))
    return None if places is None else ({"axis": perm[places[0]]}, {})


def _along_axes(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    """Reductions and Squeeze: attribute "axis", attribute "axes" or input 1."""
    places = axes(node, len(perm), at)
    if places is None:
        return None
    moved = sorted(perm[place] for place in places)
    if node.op_type in ARGUMENTS:
        return {"axis": moved[0]}, {}
    if not raw_axes(node, at):
        return NOTHING
    since = 13 if node.op_type in ("Squeeze", "ReduceSum") else 18
    return ({"axes": moved}, {}) if at.opset < since else ({}, {1: moved})


def _gather(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    places = axes(node, len(perm), at)
    if places is None or at.rank(node.inputs[1]) not in (0, 1):
        return None
    return {"axis": perm[places[0]]}, {}


def _slice(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    starts = integers(node, 1, "starts", 10, at)
    written = integers(node, 3, "axes", 10, at)
    if written is None or (not written and starts is None):
        return None
    places = normal(written or range(len(starts or ())), len(perm))
    if not places:
        return None
    moved = [perm[place] for place in places]
    return ({"axes": moved}, {}) if at.opset < 10 else ({}, {3: moved})


def _pad(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        written = integers(node, 3, "axes", 18, at)
        places = None if written is None else normal(written, len(perm))
        return None if not places else ({}, {3: [perm[place] for place in places]})
    pads, rank = integers(node, 1, "pads", 11, at), len(perm)
    if pads is None or len(pads) != 2 * rank or at.opset < 2:
        return None
    moved = [0] * (2 * rank)
    for place, axis in enumerate(perm):
        moved[axis], moved[rank + axis] = pads[place], pads[rank + place]
    return ({"pads": moved}, {}) if at.opset < 11 else ({}, {1: moved})


def _by_axis(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    """Tile and Expand: one number for each axis."""
    if at.opset < 6:
        return None
    numbers = integers(node, 1, "", 1, at)
    if numbers is None or len(numbers) > len(perm):
        return None
    if len(numbers) < len(perm):
        if node.op_type == "Tile":
            return None
        numbers = [1] * (len(perm) - len(numbers)) + numbers
    moved = [0] * len(perm)
    for place, axis in enumerate(perm):
        moved[axis] = numbers[place]
    return {}, {1: moved}


def _quantizer(node: ir.Node, perm: Perm, at: Rewriter) -> Change | None:
    rank = at.rank(node.inputs[1])
    block: int = node.attributes.get_int("block_size", 0)
    if rank is None or rank > 1 or block:
        return None
    if rank == 0 or at.dims(node.inputs[1]) == (1,):
        return NOTHING
    places = normal([node.attributes.get_int("axis", 1)], len(perm))
    return None if places is None else ({"axis": perm[places[0]]}, {})


_CHANGES: Mapping[str, Callable[[ir.Node, Perm, Rewriter], Change | None]] = {
    **dict.fromkeys(ALONG_AXIS, _along_axis),
    **dict.fromkeys((*REDUCTIONS, *ARGUMENTS, "Squeeze"), _along_axes),
    **dict.fromkeys(QUANTIZERS, _quantizer),
    "Expand": _by_axis,
    "Gather": _gather,
    "Pad": _pad,
    "Slice": _slice,
    "Tile": _by_axis,
}
MOVABLE = frozenset({*UNARY, *VARIADIC, *_CHANGES, "Unsqueeze"})
