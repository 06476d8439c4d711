"""Shape arithmetic: what the integers that a graph computes from its shapes are.

Exporters write `Shape -> Gather -> Concat -> Reshape`. Such integers are followed element by
element: which are the same for every input, and which dimensions each was computed from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Dep: TypeAlias = "tuple[str, int]"
"""A dimension: the name of a value, and the axis."""


@dataclass(frozen=True)
class Dim:
    """An integer (or truth value) of a shape computation.

    Attributes:
        value: what it is at the sizes that the model is analysed at.
        static: whether it is that for every input.
        symbol: the name of the free dimension that it is, if it is just that.
        deps: the dimensions that it was computed from.
    """

    value: int
    static: bool = True
    symbol: str | None = None
    deps: frozenset[Dep] = frozenset()


Dims: TypeAlias = "NDArray[np.object_]"
"""An array of `Dim`, in the shape of the tensor."""

MAX_ELEMENTS = 64
"""Longer integer tensors are data, not shapes."""


def constant_dims(array: NDArray[Any]) -> Dims | None:
    """The elements of a small constant, or None if it cannot be part of a shape computation."""
    if array.dtype.kind not in "iub" or array.size > MAX_ELEMENTS:
        return None
    dims = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        dims[index] = Dim(int(array[index]))
    return dims


def shape_dims(
    name: str, shape: Sequence[int], symbols: Sequence[int | str | None], axes: Sequence[int]
) -> Dims:
    """The dimensions `axes` of the value `name`, as Shape gives them."""
    dims = np.empty(len(axes), dtype=object)
    for position, axis in enumerate(axes):
        symbol = symbols[axis]
        dims[position] = Dim(
            shape[axis],
            isinstance(symbol, int),
            symbol if isinstance(symbol, str) else None,
            frozenset({(name, axis)}),
        )
    return dims


def values(dims: Dims) -> NDArray[np.int64]:
    """What `dims` are at the sizes of the analysis."""
    return np.array([dim.value for dim in dims.flat], dtype=np.int64).reshape(dims.shape)


def static_values(dims: Dims | None) -> NDArray[np.int64] | None:
    """`values`, if they are the same for every input."""
    if dims is None or not all(dim.static for dim in dims.flat):
        return None
    return values(dims)


def evaluate(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    """The output of `node` of the default domain, or None if this cannot be told.

    Args:
        inputs: the elements of each input, None for one that is absent or unknown.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or not inputs or inputs[0] is None:
        return None
    result = rule(node, inputs)
    return result if result is not None and result.size <= MAX_ELEMENTS else None


def _combine(function: Callable[..., int]) -> Callable[..., Any]:
    def on_dims(*dims: Dim) -> Dim:
        deps = frozenset[Dep]().union(*(dim.deps for dim in dims))
        static = all(dim.static for dim in dims)
        return Dim(int(function(*(dim.value for dim in dims))), static, None, deps)

    return on_dims


def _elementwise(function: Callable[..., int]) -> Callable[..., Dims | None]:
    def rule(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
        if any(dims is None for dims in inputs) or "axis" in node.attributes:
            return None
        count = len(inputs)
        apply = np.frompyfunc(_combine(function), count, 1)
        return np.asarray(apply(*_present(inputs)), dtype=object)

    return rule


def _present(inputs: Sequence[Dims | None]) -> list[Dims]:
    return [dims for dims in inputs if dims is not None]


def _divide(a: int, b: int) -> int:
    return 0 if b == 0 else int(math.copysign(1, a * b)) * (abs(a) // abs(b))


def _where(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    if any(dims is None for dims in inputs):
        return None

    def choose(condition: Dim, yes: Dim, no: Dim) -> Dim:
        chosen = yes if condition.value else no
        if condition.static:
            return Dim(chosen.value, chosen.static, chosen.symbol, chosen.deps | condition.deps)
        return Dim(chosen.value, False, None, condition.deps | yes.deps | no.deps)

    return np.asarray(np.frompyfunc(choose, 3, 1)(*_present(inputs)), dtype=object)


def _cast(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    wide = (ir.DataType.INT32, ir.DataType.INT64)
    return inputs[0] if node.attributes.get_int("to", 0) in wide else None


def _identity(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    return inputs[0]


def _gather(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data, indices = inputs[0], static_values(inputs[1])
    axis = node.attributes.get_int("axis", 0)
    if data is None or indices is None or not -data.ndim <= axis < data.ndim:
        return None
    length = data.shape[axis]
    if indices.size and not (-length <= indices.min() and indices.max() < length):
        return None
    return np.asarray(np.take(data, indices, axis), dtype=object)


def _slice(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data = inputs[0]
    given = [static_values(dims) for dims in inputs[1:]]
    if data is None or len(given) < 2 or any(array is None for array in given):
        return None
    starts, ends, *rest = [array.tolist() for array in given if array is not None]
    axes = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    spans = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -data.ndim <= axis < data.ndim or step == 0:
            return None
        # Backwards past the first element is None in Python, and far below zero in ONNX.
        through = step < 0 and end < -data.shape[axis]
        spans[axis] = slice(start, None if through else end, step)
    return np.asarray(data[tuple(spans)], dtype=object)


def _concat(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    parts = [dims for dims in inputs if dims is not None]
    axis = node.attributes.get_int("axis", 0)
    if len(parts) < len(inputs) or not -parts[0].ndim <= axis < parts[0].ndim:
        return None
    return np.concatenate(parts, axis)


def _transpose(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data = inputs[0]
    assert data is not None
    return np.asarray(data.transpose(node.attributes.get_ints("perm", None)), dtype=object)


def _reshape(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data, target = inputs[0], static_values(inputs[1]) if len(inputs) > 1 else None
    if data is None or target is None or data.size == 0 or 0 in target:
        return None
    return np.asarray(data.reshape(target.tolist()), dtype=object)


def _squeeze(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data, axes = inputs[0], _axes(node, inputs)
    assert data is not None
    return np.asarray(data.squeeze(None if axes is None else tuple(axes)), dtype=object)


def _unsqueeze(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data, axes = inputs[0], _axes(node, inputs)
    assert data is not None
    return None if axes is None else np.asarray(np.expand_dims(data, tuple(axes)), dtype=object)


def _axes(node: ir.Node, inputs: Sequence[Dims | None]) -> list[int] | None:
    """Axes from an attribute (before opset 13) or an input."""
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes", ()) or ())
    given = static_values(inputs[1]) if len(inputs) > 1 else None
    return None if given is None else list(given.reshape(-1).tolist())


def _mod(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    if node.attributes.get_int("fmod", 0) or inputs[1] is None:
        return None
    if any(dim.value == 0 for dim in inputs[1].flat):
        return None
    return _elementwise(lambda a, b: a % b)(node, inputs)


def _reduce_prod(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    """Over everything: the number of elements."""
    data = inputs[0]
    if data is None or data.ndim != 1 or _axes(node, inputs) not in (None, [0], [-1]):
        return None
    product = np.empty((1,) if node.attributes.get_int("keepdims", 1) else (), dtype=object)
    product[...] = _combine(lambda *a: math.prod(a))(*data.flat)
    return product


def _constant_of_shape(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    shape = static_values(inputs[0])
    fill = node.attributes.get_tensor("value", None)
    if shape is None or fill is None or fill.numpy().dtype.kind not in "iub":
        return None
    if shape.ndim != 1 or (shape < 0).any() or math.prod(shape.tolist()) > MAX_ELEMENTS:
        return None
    dims = inputs[0]
    assert dims is not None
    deps = frozenset[Dep]().union(*(dim.deps for dim in dims.flat))
    result = np.empty(tuple(shape.tolist()), dtype=object)
    result.fill(Dim(int(fill.numpy().reshape(-1)[0]), True, None, deps))
    return result


_RULES: dict[str, Callable[[ir.Node, Sequence[Dims | None]], Dims | None]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(lambda a, b: a == b),
    "Gather": _gather,
    "Identity": _identity,
    "Max": _elementwise(lambda *a: max(a)),
    "Min": _elementwise(lambda *a: min(a)),
    "Mod": _mod,
    "Mul": _elementwise(lambda a, b: a * b),
    "Neg": _elementwise(lambda a: -a),
    "ReduceProd": _reduce_prod,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(lambda a, b: a - b),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
