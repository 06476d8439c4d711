"""Rules of operators that treat each position of the channels alike: they pass labels on."""

from __future__ import annotations

from graphopt_passes.prune_channels.rules_linear import broadcast
from graphopt_passes.prune_channels.sweep import Decline, Op, Rule

INFINITY = float("inf")

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil"),
    *("Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not"),
    *("Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)

ELEMENTWISE = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)

# What a cut channel has to hold so that a reduction over channels does not see it.
REDUCTIONS = {
    "ReduceL1": 0.0,
    "ReduceL2": 0.0,
    "ReduceLogSum": 0.0,
    "ReduceLogSumExp": -INFINITY,
    "ReduceMax": -INFINITY,
    "ReduceMean": 0.0,
    "ReduceMin": INFINITY,
    "ReduceProd": 1.0,
    "ReduceSum": 0.0,
    "ReduceSumSquare": 0.0,
}


def unary(op: Op) -> None:
    """Every further input (the limits of Clip) is a scalar."""
    for index in range(1, len(op.node.inputs)):
        if op.has(index) and any(n != 1 for n in op.shape(index)):
            raise Decline(f"input {index} is not a scalar")
        if op.has(index):
            op.labels(index)
    op.emit(op.labels(0))


def cast_like(op: Op) -> None:
    op.emit(op.labels(0))


def quantization(op: Op) -> None:
    """QuantizeLinear and DequantizeLinear; scales and zero points along an axis are cut with it."""
    if op.node.attributes.get_int("block_size", 0):
        raise Decline("it has scales for blocks")
    x = op.labels(0)
    for index in (1, 2):
        if op.has(index) and len(op.shape(index)) == 1 and op.shape(index) != (1,):
            op.tie(x[op.axis("axis", 1, len(x))], op.labels(index)[0])
        elif op.has(index) and len(op.shape(index)) > 1:
            raise Decline("it has scales for blocks")
        elif op.has(index):
            op.labels(index)
    op.emit(x)


def dropout(op: Op) -> None:
    if op.has(2) and (not op.is_constant(2) or op.constants(2) != [0]):
        raise Decline("it is in training mode")
    labels = op.labels(0)
    for index, value in enumerate(op.node.outputs):
        if value.name:
            op.emit(labels, index)


def elementwise(op: Op) -> None:
    operands = [op.labels(index) for index in range(len(op.node.inputs))]
    rank = max(map(len, operands))
    axes = [
        [labels[axis - rank] for labels in operands if len(labels) >= rank - axis]
        for axis in range(rank)
    ]
    op.emit([broadcast(op, long) for long in axes])


def pool(op: Op) -> None:
    """Pools over space, global ones included; the labels of the first two axes pass."""
    if len(op.node.outputs) > 1 and op.node.outputs[1].name:
        raise Decline("its indices are read")
    x = op.labels(0)
    for axis in x[2:]:
        op.freeze(axis)
    op.emit([*x[:2], *(op.frozen(n) for n in op.out_shape()[2:])])


def reduction(op: Op) -> None:
    x = op.labels(0)
    axes = _reduced(op, len(x))
    mixed = [axis for axis in axes if len(op.free(x[axis]))]
    if mixed:
        op.mix(0, mixed, REDUCTIONS[op.node.op_type], op.node.op_type == "ReduceMean")
    _emit_reduced(op, axes)


def argument(op: Op) -> None:
    """ArgMax and ArgMin."""
    x = op.labels(0)
    axis = op.axis("axis", 0, len(x))
    op.freeze(x[axis])
    _emit_reduced(op, [axis])


def _reduced(op: Op, rank: int) -> list[int]:
    if "axes" in op.node.attributes:
        axes = list(op.node.attributes.get_ints("axes", ()) or ())
    elif op.has(1):
        given = op.constants(1)
        if given is None:
            raise Decline("its axes are computed")
        axes = given
    else:
        axes = []
    if not axes:
        axes = [] if op.node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def _emit_reduced(op: Op, axes: list[int]) -> None:
    keep = op.node.attributes.get_int("keepdims", 1)
    op.emit(
        [
            op.frozen(1) if axis in axes else labels
            for axis, labels in enumerate(op.labels(0))
            if keep or axis not in axes
        ]
    )


def along_axis(default: int, *, coerced_before: int = 0) -> Rule:
    """Operators that work along one axis, which has to stay whole.

    Args:
        default: of the attribute `axis`.
        coerced_before: the opset before which all axes from `axis` on are one.
    """

    def rule(op: Op) -> None:
        x = op.labels(0)
        old = op.opset < coerced_before
        first = op.axis("axis", 1 if old else default, len(x))
        for axis in x[first:] if old else [x[first]]:
            op.freeze(axis)
        op.emit(x)

    return rule


def cumulative_sum(op: Op) -> None:
    x, axis = op.labels(0), op.constants(1)
    if axis is None:
        raise Decline("its axis is computed")
    op.freeze(x[axis[0]])
    op.emit(x)


def top_k(op: Op) -> None:
    x = op.labels(0)
    axis = op.axis("axis", -1, len(x))
    op.freeze(x[axis])
    if op.has(1):
        op.labels(1)
    for index, value in enumerate(op.node.outputs):
        if value.name:
            kept = op.frozen(op.out_shape(index)[axis])
            op.emit([*x[:axis], kept, *x[axis + 1 :]], index)


def resize(op: Op) -> None:
    """An axis passes if it is known to keep its length; `sizes` is rewritten for it."""
    x, rank = op.labels(0), len(op.shape(0))
    crop = op.node.attributes.get_string("coordinate_transformation_mode", "") or ""
    policy = op.node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    axes = [a % rank for a in op.node.attributes.get_ints("axes", None) or range(rank)]
    passing = {axis for axis in range(rank) if axis not in axes}
    sizes = None
    if op.has(3) and op.shape(3) != (0,):
        sizes = op.dims(3)
        if sizes is None or len(sizes) != len(axes):
            raise Decline("its sizes are not known")
        if policy == "stretch":
            same = [dim.static and op.is_static(0, a) for dim, a in zip(sizes, axes, strict=True)]
            passing |= {
                axis
                for dim, axis, known in zip(sizes, axes, same, strict=True)
                if known and dim.value == len(x[axis])
            }
    elif op.has(2):
        scales = op.constant(2)
        if scales is not None and scales.size == len(axes):
            passing |= {a for s, a in zip(scales.tolist(), axes, strict=True) if s == 1.0}
    if crop == "tf_crop_and_resize":
        passing = set()
    for axis in range(rank):
        if axis not in passing:
            op.freeze(x[axis])
    out = op.out_shape()
    op.emit([x[a] if a in passing else op.frozen(out[a]) for a in range(rank)])
    if sizes is not None:
        op.rewrite(3, sizes, [x[axis] if axis in passing else None for axis in axes])


def pad(op: Op) -> None:
    """An axis passes if it is known to get no padding."""
    x, rank = op.labels(0), len(op.shape(0))
    pads = op.constants(1)
    axes: list[int] | None = list(range(rank))
    if op.has(3):
        axes = op.constants(3)
    if op.has(2):
        op.labels(2)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        raise Decline("its pads are computed")
    padded = {axis % rank for axis, size in zip(axes * 2, pads, strict=True) if size}
    for axis in padded:
        op.freeze(x[axis])
    out = op.out_shape()
    op.emit([op.frozen(out[a]) if a in padded else x[a] for a in range(rank)])


RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), argument),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), pool),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), along_axis(-1, coerced_before=13)),
    "CastLike": cast_like,
    "CumSum": cumulative_sum,
    "DequantizeLinear": quantization,
    "Dropout": dropout,
    "LpNormalization": along_axis(-1),
    "Pad": pad,
    "QuantizeLinear": quantization,
    "Resize": resize,
    "TopK": top_k,
}
