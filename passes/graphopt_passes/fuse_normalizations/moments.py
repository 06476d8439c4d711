"""Where a graph takes the mean of a value away and divides by its root mean square.

What is recognized is (x - mean(x)) / sqrt(var(x) + epsilon), and the same without the mean:
x / sqrt(mean(x^2) + epsilon). Exporters write each part in several ways: a product with the
inverse, a Reciprocal, a Pow by -0.5; the variance as mean((x - mean)^2) or as mean(x^2) - mean^2,
at times kept from being negative; a mean as a sum times 1/n; dimensions that a reduction drops and
a Reshape brings back, an Expand, and Casts to a wider type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.rewriting import Rewriter
from graphopt.rewriting.axes import kept

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
SUM_AXES = {"ReduceSum": 13, "ReduceSumSquare": 18}
"""In which opset the axes became an input."""

_SPREADS = ("Cast", "Expand", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Normalized:
    """(x - mean) * scale / sqrt(variance + epsilon), or without the mean if not `centered`."""

    x: ir.Value
    axes: tuple[int, ...]
    """From 0 on, in order."""
    epsilon: float
    centered: bool
    scale: ir.Value | None
    """A constant that the inverse root has been multiplied by, if any."""
    bias: ir.Value | None
    """A constant that has been added, if any."""
    ends: tuple[ir.Value, ...]
    """Where the nodes that compute it begin: x and the shapes of Reshape and Expand."""


@dataclass(frozen=True)
class _Mean:
    """The mean of `value` over `axes`, with the dimensions kept or not."""

    value: ir.Value
    axes: tuple[int, ...]


def normalized(node: ir.Node, at: Rewriter) -> Normalized | None:
    """What `node`, a Div or Mul, normalizes; None if it does not."""
    if at.opset < 7 or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if first is None or second is None:
        return None
    if node.op_type == "Div":
        return _Search(at).find(first, second, inverse=False)
    found = _Search(at).find(first, second, inverse=True)
    return found or _Search(at).find(second, first, inverse=True)


def normalized_sum(node: ir.Node, at: Rewriter) -> Normalized | None:
    """The same of `node`, an Add of x * inverse and bias - mean * inverse, as TensorFlow writes."""
    for index in (0, 1) if at.opset >= 7 else ():
        product = at.producer(node.inputs[index], "Mul")
        rest = None if product is None else at.producer(node.inputs[1 - index], "Sub")
        if product is not None and rest is not None:
            return _Search(at).find_split(product, rest)
    return None


class _Search:
    """Looks upwards from one node; keeps in mind which shapes it has passed."""

    def __init__(self, at: Rewriter) -> None:
        self._at = at
        self._shapes: list[ir.Value] = []
        self._x: ir.Value | None = None

    def find(self, top: ir.Value, root: ir.Value, *, inverse: bool) -> Normalized | None:
        """`top` / `root` or, if `inverse`, `top` * `root` as what it normalizes."""
        self._x = top
        deviation, scale = _constant_factor(root, self._at) if inverse else (root, None)
        added = self._plus_epsilon(self._radicand(deviation, inverse))
        if added is None:
            return None
        found = self._centered(top, added[0]) or self._plain(top, added[0])
        if found is None or not self._spreads(deviation, found[0], found[1].axes):
            return None
        x, mean, centered = found
        return Normalized(x, mean.axes, added[1], centered, scale, None, self._ends(x))

    def find_split(self, product: ir.Node, rest: ir.Node) -> Normalized | None:
        """`product` + `rest` = x * inverse + (bias - mean * inverse) as what it normalizes."""
        at, bias = self._at, rest.inputs[0]
        shift = at.producer(rest.inputs[1], "Mul")
        if shift is None or not at.is_constant(bias):
            return None
        for index in (0, 1):
            x, inverse = product.inputs[index], product.inputs[1 - index]
            if x is None or inverse is None or inverse not in shift.inputs:
                continue
            self._x = x
            deviation, scale = _constant_factor(inverse, at)
            added = self._plus_epsilon(self._radicand(deviation, inverse=True))
            mean = shift.inputs[0] if shift.inputs[1] is inverse else shift.inputs[1]
            found = None if added is None else self._mean_of(x, mean)
            if added is None or found is None or not self._is_variance(added[0], found):
                continue
            if self._spreads(deviation, x, found.axes):
                return Normalized(x, found.axes, added[1], True, scale, bias, self._ends(x))
        return None

    def _ends(self, x: ir.Value) -> tuple[ir.Value, ...]:
        return (x, _origin(x, self._at), *self._shapes)

    def _centered(self, top: ir.Value, variance: ir.Value) -> tuple[ir.Value, _Mean, bool] | None:
        difference = self._difference(top)
        if difference is None or not self._is_variance(variance, difference[1], top):
            return None
        return *difference, True

    def _plain(self, top: ir.Value, variance: ir.Value) -> tuple[ir.Value, _Mean, bool] | None:
        self._x = top
        square = self._mean_square(variance)
        if square is None or _origin(square.value, self._at) is not _origin(top, self._at):
            return None
        return top, square, False

    def _is_variance(self, value: ir.Value, mean: _Mean, top: ir.Value | None = None) -> bool:
        """Whether `value` is the variance of what `mean` is of; `top` is that less the mean."""
        square = self._mean_square(value)
        if square is not None and square.axes == mean.axes:
            base = _origin(square.value, self._at)
            difference = self._difference(base)
            return base is top or (difference is not None and difference[1] == mean)
        return self._spread_of_moments(value) == mean

    def _difference(self, value: ir.Value) -> tuple[ir.Value, _Mean] | None:
        """x, and the mean of its origin, if `value` is x less that mean."""
        node = self._at.producer(value, "Sub")
        x = None if node is None else node.inputs[0]
        if node is None or x is None:
            return None
        self._x = x
        mean = self._mean_of(x, node.inputs[1])
        return None if mean is None else (x, mean)

    def _mean_of(self, x: ir.Value, value: ir.Value | None) -> _Mean | None:
        """`value` as a mean of the origin of `x`, if it is one and broadcasts against `x`."""
        mean = None if value is None else self._mean(value)
        if value is None or mean is None or not self._spreads(value, x, mean.axes):
            return None
        source = _origin(mean.value, self._at)
        return _Mean(source, mean.axes) if source is _origin(x, self._at) else None

    def _spread_of_moments(self, value: ir.Value) -> _Mean | None:
        """The mean of the origin of x, if `value` is mean(x^2) - mean(x)^2, or 0 where that is
        less."""
        at = self._at
        clamp = at.producer(self._peel(value), "Relu", "Max")
        if clamp is not None:
            inner = _beside_zero(clamp, at)
            if inner is None:
                return None
            value = inner
        node = at.producer(self._peel(value), "Sub")
        if node is None or node.inputs[0] is None or node.inputs[1] is None:
            return None
        square, base = self._mean_square(node.inputs[0]), _squared(node.inputs[1], at)
        mean = None if base is None else self._mean(base)
        if square is None or mean is None or square.axes != mean.axes:
            return None
        source = _origin(mean.value, at)
        dims = at.dims(node.inputs[0])
        if source is not _origin(square.value, at) or dims is None:
            return None
        return _Mean(source, mean.axes) if dims == at.dims(node.inputs[1]) else None

    def _mean_square(self, value: ir.Value) -> _Mean | None:
        """What the mean of the square of which `value` is."""
        mean = self._scaled_sum(self._peel(value), "ReduceSumSquare")
        if mean is not None:
            return mean
        mean = self._mean(value)
        base = None if mean is None else _squared(self._peel(mean.value), self._at)
        return None if mean is None or base is None else _Mean(base, mean.axes)

    def _mean(self, value: ir.Value) -> _Mean | None:
        at, value = self._at, self._peel(value)
        node = at.producer(value, "ReduceMean")
        if node is None or node.inputs[0] is None:
            return self._scaled_sum(value, "ReduceSum")
        axes = reduced_axes(node, 18, at)
        return None if axes is None else _Mean(node.inputs[0], axes)

    def _scaled_sum(self, value: ir.Value, reduction: str) -> _Mean | None:
        """A sum of n elements times 1/n, or divided by n, as a mean."""
        at = self._at
        node = at.producer(value, "Mul", "Div")
        found = None if node is None else at.operands(node, lambda v: at.scalar(v) is not None)
        if node is None or found is None or (node.op_type == "Div" and found[0] != 1):
            return None
        factor, summed = at.scalar(node.inputs[found[0]]), node.inputs[found[1]]
        total = None if summed is None else at.producer(self._peel(summed), reduction)
        axes = None if total is None else reduced_axes(total, SUM_AXES[reduction], at)
        if total is None or axes is None or total.inputs[0] is None or not factor:
            return None
        dims = at.dims(total.inputs[0]) or ()
        sizes = [dim for axis in axes if isinstance(dim := dims[axis], int)]
        count = math.prod(sizes)
        if len(sizes) != len(axes) or count == 0:
            return None
        expected = count if node.op_type == "Div" else 1 / count
        return _Mean(total.inputs[0], axes) if abs(factor - expected) <= 1e-6 * expected else None

    def _plus_epsilon(self, value: ir.Value | None) -> tuple[ir.Value, float] | None:
        at = self._at
        node = None if value is None else at.producer(self._peel(value), "Add")
        found = None if node is None else at.operands(node, lambda v: at.scalar(v) is not None)
        if node is None or found is None:
            return None
        epsilon, variance = at.scalar(node.inputs[found[0]]), node.inputs[found[1]]
        if epsilon is None or variance is None or not 0.0 <= epsilon < math.inf:
            return None
        return variance, epsilon

    def _radicand(self, value: ir.Value | None, inverse: bool) -> ir.Value | None:
        """y if `value` is sqrt(y), or 1 / sqrt(y) if it is `inverse`."""
        at = self._at
        if value is None:
            return None
        node = at.producer(
            self._peel(value), "Sqrt", "Pow", *(("Reciprocal", "Div") if inverse else ())
        )
        if node is None:
            return None
        if node.op_type == "Pow":
            return (
                node.inputs[0] if at.is_number(node.inputs[1], -0.5 if inverse else 0.5) else None
            )
        if node.op_type == "Sqrt":
            if not inverse or node.inputs[0] is None:
                return node.inputs[0]
            return _inverted(self._peel(node.inputs[0]), at)
        below = _inverted(node.outputs[0], at)
        return None if below is None else self._radicand(below, inverse=False)

    def _peel(self, value: ir.Value) -> ir.Value:
        """`value` before Casts to wider types, and before it was spread out over the shape of x."""
        at, x = self._at, self._x
        while (node := at.producer(value, *_SPREADS)) is not None:
            source = node.inputs[0]
            if source is None:
                break
            if node.op_type == "Cast":
                if not _widens(node, x, at):
                    break
            elif node.op_type == "Expand":
                dims = at.dims(x)
                if dims is None or at.dims(value) != dims or at.rank(source) != len(dims):
                    break
            self._shapes.extend(v for v in node.inputs[1:] if v is not None)
            value = source
        return value

    def _spreads(self, value: ir.Value | None, x: ir.Value, axes: tuple[int, ...]) -> bool:
        """Whether `value`, which has an element for each mean over `axes` of `x`, meets the right
        elements of `x` when it is broadcast."""
        dims, large = self._at.dims(value), self._at.dims(x)
        return large is not None and dims in (kept(large, axes), large)


def reduced_axes(node: ir.Node, since: int, at: Rewriter) -> tuple[int, ...] | None:
    """The axes, from 0 on and in order, that `node` reduces; in opset `since` they became an
    input."""
    rank = at.rank(node.inputs[0])
    if at.opset < since:
        axes = list(node.attributes.get_ints("axes", ()))
    else:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        known = at.facts[given].ints() if given is not None else []
        if known is None:
            return None
        axes = known
    if not axes and node.attributes.get_int("noop_with_empty_axes", False):
        return None
    if not rank or not all(-rank <= axis < rank for axis in axes):
        return None
    return tuple(sorted(axis % rank for axis in axes)) or tuple(range(rank))


def _origin(value: ir.Value, at: Rewriter) -> ir.Value:
    """`value` before Casts that lose nothing."""
    while (node := at.producer(value, "Cast")) is not None and node.inputs[0] is not None:
        if not _widens(node, node.inputs[0], at):
            break
        value = node.inputs[0]
    return value


def _widens(cast: ir.Node, x: ir.Value | None, at: Rewriter) -> bool:
    """Whether what is computed behind `cast` is at least as exact as in the type of `x`."""
    to, dtype = at.dtype(cast.outputs[0]), at.dtype(x)
    if to == dtype or (to in _WIDE and dtype in _HALVES):
        return dtype is not None
    return to == ir.DataType.DOUBLE and dtype == ir.DataType.FLOAT


def _squared(value: ir.Value, at: Rewriter) -> ir.Value | None:
    """a if `value` is a * a or a to the power of 2."""
    node = at.producer(value, "Mul", "Pow")
    if node is None:
        return None
    is_square = (
        node.inputs[0] is node.inputs[1]
        if node.op_type == "Mul"
        else at.is_number(node.inputs[1], 2.0) and at.keeps_shape(node.inputs[1], node.inputs[0])
    )
    return node.inputs[0] if is_square else None


def _inverted(value: ir.Value, at: Rewriter) -> ir.Value | None:
    """a if `value` is 1 / a."""
    node = at.producer(value, "Reciprocal", "Div")
    if node is None:
        return None
    if node.op_type == "Reciprocal":
        return node.inputs[0]
    return node.inputs[1] if at.is_number(node.inputs[0], 1.0) else None


def _beside_zero(node: ir.Node, at: Rewriter) -> ir.Value | None:
    """a if `node`, a Relu or Max, is max(a, 0)."""
    if node.op_type == "Relu":
        return node.inputs[0]
    found = at.operands(node, lambda value: at.is_number(value, 0.0))
    return None if found is None else node.inputs[found[1]]


def _constant_factor(value: ir.Value, at: Rewriter) -> tuple[ir.Value | None, ir.Value | None]:
    """`value` as a product: the other factor and the constant one, which may be None."""
    product = at.producer(value, "Mul")
    if product is None:
        return value, None
    found = at.operands(product, at.is_constant)
    return (None, None) if found is None else (product.inputs[found[1]], product.inputs[found[0]])
