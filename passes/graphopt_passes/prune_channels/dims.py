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
    if data is None or indices is None or data.ndim != 1 or axis not in (0, -1):
        return None
    if indices.size and not (-len(data) <= indices.min() and indices.max() < len(data)):
        return None
    return np.asarray(data[indices], dtype=object)


def _slice(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    data = inputs[0]
    given = [static_values(dims) for dims in inputs[1:]]
    given += [np.array([0]), np.array([1])][len(given) - 4 :] if len(given) < 4 else []
    if data is None or data.ndim != 1 or len(given) != 4 or given[0] is None or given[1] is None:
        return None
    axes, steps = given[2], given[3]
    if axes is None or steps is None or axes.tolist() not in ([0], [-1]) or steps[0] < 1:
        return None
    return data[int(given[0][0]) : int(given[1][0]) : int(steps[0])]


def _concat(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    if any(dims is None or dims.ndim != 1 for dims in inputs):
        return None
    return np.concatenate([dims for dims in inputs if dims is not None])


def _flat(node: ir.Node, inputs: Sequence[Dims | None]) -> Dims | None:
    """Squeeze, Unsqueeze and Reshape between a scalar and a list of one, or of a list to a list."""
    data = inputs[0]
    assert data is not None
    if node.op_type == "Squeeze":
        return data.reshape(()) if data.size == 1 else None
    if node.op_type == "Unsqueeze":
        return data.reshape(1) if data.ndim == 0 else None
    target = static_values(inputs[1]) if len(inputs) > 1 else None
    if target is None or target.tolist() not in ([-1], [data.size]):
        return None
    return data.reshape(-1)


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
    "Mul": _elementwise(lambda a, b: a * b),
    "Reshape": _flat,
    "Slice": _slice,
    "Squeeze": _flat,
    "Sub": _elementwise(lambda a, b: a - b),
    "Unsqueeze": _flat,
    "Where": _where,
}
