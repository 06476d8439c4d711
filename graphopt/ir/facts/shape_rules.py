"""The types and dimensions of what the commonest operators give.

Only where this is shorter than asking onnx, or tells more: symbolic dimensions. Each rule gives the
fact of its operator's one output, or None where onnx's own inference is to be asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.ir.facts.data_rules import Rule, sliced
from graphopt.ir.facts.dimension import Dim, Dims, add, divide, multiply, product, subtract, symbol
from graphopt.ir.facts.fact import Fact, Item, Operation


def _same(op: Operation) -> Fact | None:
    """The first output has the type and shape of the first input."""
    fact = op.fact(0)
    if fact.dtype is None or len(op.node.outputs) != 1:
        return None
    return Fact(fact.dtype, fact.dims)


def _same_shape(dtype: ir.DataType) -> Rule:
    return lambda op: Fact(dtype, op.dims(0))


def _cast(op: Operation) -> Fact | None:
    to = op.node.attributes.get("to")
    if to is None or to.type != ir.AttributeType.INT:
        return None
    return Fact(ir.DataType(to.as_int()), op.dims(0))


def _cast_like(op: Operation) -> Fact | None:
    return None if op.fact(1).dtype is None else Fact(op.fact(1).dtype, op.dims(0))


def broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    """What numpy's rule makes of `shapes`; None if one of them is not known or they do not fit."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    if known and known.count(known[0]) == len(known):
        return known[0]
    rank = max((len(shape) for shape in known), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    dims: list[Dim] = []
    for column in zip(*padded, strict=True):
        dim = _meet(column)
        if dim is None:
            return None
        dims.append(dim)
    return tuple(dims)


def _meet(column: Sequence[Dim]) -> Dim | None:
    different = {dim for dim in column if dim != 1}
    if len(different) <= 1:
        return different.pop() if different else 1
    others = sorted(different, key=str)
    numbers = [dim for dim in others if isinstance(dim, int)]
    if len(numbers) > 1:
        return None
    if numbers:
        return numbers[0]  # the symbols are 1 or the same at run time
    return symbol(f"broadcast({','.join(map(str, others))})")


def _variadic(dtype: ir.DataType | None = None, first: int = 0) -> Rule:
    """Operators that broadcast all inputs; typed as input `first` unless `dtype` says otherwise."""

    def rule(op: Operation) -> Fact | None:
        if op.opset < 8:  # attributes "broadcast" and "axis" before 7; Sum and the like before 8
            return None
        kind = dtype or op.fact(first).dtype
        return None if kind is None else Fact(kind, broadcast([fact.dims for fact in op.facts]))

    return rule


def _transpose(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None:
        return None
    order = op.node.attributes.get_ints("perm", tuple(reversed(range(len(dims)))))
    if sorted(order) != list(range(len(dims))):
        return None
    return Fact(op.fact(0).dtype, tuple(dims[axis] for axis in order))


def _shape(op: Operation) -> Fact | None:
    return Fact(ir.DataType.INT64, op.named([None]))


def _size(op: Operation) -> Fact | None:
    return Fact(ir.DataType.INT64, ())


def _gather(op: Operation) -> Fact | None:
    dims, indices = op.dims(0), op.dims(1)
    axis = None if dims is None else op.axis(0, len(dims))
    if dims is None or indices is None or axis is None:
        return None
    return Fact(op.fact(0).dtype, (*dims[:axis], *indices, *dims[axis + 1 :]))


def _concat(op: Operation) -> Fact | None:
    shapes = [fact.dims for fact in op.facts if fact.dims]
    if len(shapes) != len(op.facts) or len({len(shape) for shape in shapes}) != 1:
        return None
    axis = op.axis(1 if op.opset < 4 else 0, len(shapes[0]))
    if axis is None:
        return None
    # ONNX Runtime does not look at the other dimensions of what is empty.
    full = [shape for shape in shapes if 0 not in shape] or shapes
    total: Dim = 0
    for shape in shapes:
        total = add(total, shape[axis])
    dims: list[Dim] = []
    for column in zip(*full, strict=True):
        # They must be equal: a number among them is the most that can be known.
        dims.append(next((dim for dim in column if isinstance(dim, int)), column[0]))
    dims[axis] = total
    return Fact(op.fact(0).dtype, tuple(dims))


def _reshape(op: Operation) -> Fact | None:
    shape, dims = op.fact(1), op.dims(0)
    if op.opset < 5:
        return None
    if shape.items is None:
        count = None if shape.dims is None or len(shape.dims) != 1 else shape.dims[0]
        if not isinstance(count, int):
            return None
        return Fact(op.fact(0).dtype, op.named([None] * count))
    copies = not op.node.attributes.get_int("allowzero", 0)
    target: list[Dim | None] = []
    for axis, item in enumerate(shape.items):
        copied = dims[axis] if dims is not None and axis < len(dims) else None
        if item == 0 and copies:
            target.append(copied)
        else:
            target.append(None if item == -1 else item)
    _complete(target, shape.items, dims)
    if copies and (None in target or dims is None or product(dims) != _product(target)):
        # A symbol that happens to be 0 at run time means "copy". Where the elements add up, or it
        # is what it would copy, it makes no difference.
        for axis, item in enumerate(target):
            same = dims is not None and axis < len(dims) and dims[axis] == item
            target[axis] = item if isinstance(item, int) or same else None
    return Fact(op.fact(0).dtype, op.named(target))


def _complete(target: list[Dim | None], items: Sequence[Dim | None], dims: Dims | None) -> None:
    """Computes the one dimension of `target` that is left out, if that can be done."""
    missing = [axis for axis, dim in enumerate(target) if dim is None]
    if len(missing) == 1 and dims is not None and items[missing[0]] == -1:
        target[missing[0]] = divide(product(dims), _product(target))


def _product(target: Sequence[Dim | None]) -> Dim:
    return product(tuple(dim for dim in target if dim is not None))


def _expand(op: Operation) -> Fact | None:
    items = op.fact(1).items
    if items is None:
        return None
    dims = broadcast([op.dims(0), op.named(items)])
    return None if dims is None else Fact(op.fact(0).dtype, dims)


def _constant_of_shape(op: Operation) -> Fact | None:
    items = op.fact(0).items
    if items is None or op.dims(0) == ():
        return None
    value = op.node.attributes.get("value")
    dtype = ir.DataType.FLOAT if value is None else value.value.dtype
    return Fact(dtype, op.named(items))


def _unsqueeze(op: Operation) -> Fact | None:
    dims, given = op.dims(0), op.ints(1, "axes", 13)
    if dims is None or given is None:
        return None
    axes = op.axes(1, 13, len(dims) + len(given))
    if axes is None or len(set(axes)) != len(axes):
        return None
    rest = iter(dims)
    rank = len(dims) + len(axes)
    return Fact(op.fact(0).dtype, tuple(1 if a in axes else next(rest) for a in range(rank)))


def _squeeze(op: Operation) -> Fact | None:
    dims = op.dims(0)
    axes = None if dims is None else op.axes(1, 13, len(dims))
    if dims is None or axes is None:
        return None
    if not axes:  # all that are 1: which, must be known
        if op.has_input(1) or not all(isinstance(dim, int) for dim in dims):
            return None
        return Fact(op.fact(0).dtype, tuple(dim for dim in dims if dim != 1))
    return Fact(op.fact(0).dtype, tuple(d for a, d in enumerate(dims) if a not in axes))


def _slice(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None:
        return None
    starts, ends = _bounds(op, 1, "starts"), _bounds(op, 2, "ends")
    axes = op.axes(3, 10, len(dims))
    if axes is None and op.opset >= 10:
        return Fact(op.fact(0).dtype, op.named([None] * len(dims)))
    steps = op.fact(4).items if op.opset >= 10 and op.has_input(4) else ()
    if starts is None or ends is None or axes is None:
        return None
    axes = axes or list(range(len(starts)))
    steps = steps or ((None if steps is None else 1),) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    result: list[Item] = list(dims)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        result[axis] = _extent(dims[axis], start, end, step)
    return Fact(op.fact(0).dtype, op.named(result))


def _bounds(op: Operation, index: int, name: str) -> Sequence[Item] | None:
    """Where Slice starts or ends on each axis, as far as it is known."""
    if op.opset < 10:
        return tuple(op.node.attributes.get_ints(name, ()))
    fact = op.fact(index)
    if fact.items is not None:
        return fact.items
    count = fact.dims[0] if fact.dims else None
    return (None,) * count if isinstance(count, int) else None


def _extent(dim: Dim, start: Item, end: Item, step: Item) -> Dim | None:
    """How much Slice takes; of a dimension that is no number, only what is surely inside."""
    if not isinstance(start, int) or not isinstance(step, int) or step == 0 or end is None:
        return None
    if isinstance(dim, int) and isinstance(end, int):
        chosen = sliced(dim, start, end, step)
        return None if chosen is None else len(chosen)
    if start == 0 and step == 1 and (end == dim or (isinstance(end, int) and end >= 2**31 - 1)):
        return dim
    return None


def _matmul(op: Operation) -> Fact | None:
    left, right = op.dims(0), op.dims(1)
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    batch = broadcast([left[:-2], right[:-2]])
    return None if batch is None else Fact(op.fact(0).dtype, (*batch, left[-2], right[-1]))


def _gemm(op: Operation) -> Fact | None:
    left, right = op.dims(0), op.dims(1)
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return None
    attributes = op.node.attributes
    rows = left[1] if attributes.get_int("transA", 0) else left[0]
    columns = right[0] if attributes.get_int("transB", 0) else right[1]
    return Fact(op.fact(0).dtype, (rows, columns))


def _reduce(since: int) -> Rule:
    def rule(op: Operation) -> Fact | None:
        dims = op.dims(0)
        axes = None if dims is None else op.axes(1, since, len(dims))
        if dims is None or axes is None:
            return None
        if not axes:
            if op.node.attributes.get_int("noop_with_empty_axes", 0):
                return Fact(op.fact(0).dtype, dims)
            axes = list(range(len(dims)))
        if op.node.attributes.get_int("keepdims", 1):
            return Fact(op.fact(0).dtype, tuple(1 if a in axes else d for a, d in enumerate(dims)))
        return Fact(op.fact(0).dtype, tuple(d for a, d in enumerate(dims) if a not in axes))

    return rule


def _flatten(op: Operation) -> Fact | None:
    dims = op.dims(0)
    if dims is None:
        return None
    axis: int = op.node.attributes.get_int("axis", 1)
    if not -len(dims) <= axis <= len(dims):
        return None
    return Fact(op.fact(0).dtype, (product(dims[:axis]), product(dims[axis:])))


def _tile(op: Operation) -> Fact | None:
    dims, repeats = op.dims(0), op.fact(1).items
    if op.opset < 6 or dims is None or repeats is None or len(repeats) != len(dims):
        return None
    if any(count is None for count in repeats):
        return None
    return Fact(
        op.fact(0).dtype,
        tuple(multiply(dim, n) for dim, n in zip(dims, repeats, strict=True) if n is not None),
    )


def _range(op: Operation) -> Fact | None:
    """From a number or expression to another, in steps of 1."""
    ends = [op.fact(index).items for index in range(3)]
    start, limit, step = (None if items is None or len(items) != 1 else items[0] for items in ends)
    if start is None or limit is None or step != 1:
        return None
    count = subtract(limit, start)
    if isinstance(count, int):
        return Fact(op.fact(0).dtype, (max(count, 0),))
    return Fact(op.fact(0).dtype, (count,)) if count.is_positive_combination() else None


_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu"),
    *("Clip", "Cos", "Cosh", "CumSum", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *("HardSigmoid", "HardSwish", "Hardmax", "Identity", "InstanceNormalization", "LeakyRelu"),
    *("GroupNormalization", "Log", "LogSoftmax", "LpNormalization", "Mish", "Neg", "PRelu"),
    *("Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt"),
    *("Swish", "Tan", "Tanh", "ThresholdedRelu", "Trilu", "LayerNormalization"),
    *("BatchNormalization",),
)
_TO_BOOL = ("IsInf", "IsNaN", "Not")
_ARITHMETIC = ("Add", "Div", "Max", "Mean", "Min", "Mod", "Mul", "Sub", "Sum", "BitShift", "Pow")
_COMPARISONS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor")
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)

SHAPE_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_TO_BOOL, _same_shape(ir.DataType.BOOL)),
    **dict.fromkeys(_ARITHMETIC, _variadic()),
    **dict.fromkeys(_COMPARISONS, _variadic(ir.DataType.BOOL)),
    **dict.fromkeys(_REDUCTIONS, _reduce(18)),
    "ReduceSum": _reduce(13),
    "Where": _variadic(first=1),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
