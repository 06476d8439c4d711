"""Activations, normalizations and reductions, written out, and what is nearly one."""

from __future__ import annotations

import math

import numpy as np
from fuzz_builder import Item, Misfit, Scope
from fuzz_snippets import Snippet, affine, axes_of, slot

REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
REDUCTIONS += ("ReduceSumSquare", "ReduceProd")


# activations, written out


def _nearly(s: Scope, number: float) -> float:
    """`number`, or by rare chance another one."""
    return number if s.chance(0.9) else number * s.random.choice([1.001, 2.0, -1.0])


def _mul(s: Scope, a: Item, b: Item) -> Item:
    return s.node("Mul", *s.random.sample([a, b], 2))


def _add(s: Scope, a: Item, b: Item) -> Item:
    return s.node("Add", *s.random.sample([a, b], 2))


def _c(s: Scope, number: float, like: Item) -> Item:
    return s.number(_nearly(s, number), like.dtype)


def gelu(s: Scope) -> Item:
    x = s.floats()
    if s.chance(0.5):
        inside = s.node("Div", x, _c(s, math.sqrt(2), x))
        if s.chance(0.3):
            inside = _mul(s, x, _c(s, 1 / math.sqrt(2), x))
        bell = s.node("Erf", inside)
    else:
        cube = s.node("Pow", x, _c(s, 3, x)) if s.chance(0.5) else _mul(s, x, _mul(s, x, x))
        inside = _mul(s, _add(s, x, _mul(s, cube, _c(s, 0.044715, x))), _c(s, 0.7978845608, x))
        bell = s.node("Tanh", inside)
    more = _add(s, bell, _c(s, 1, x))
    forms = s.random.randrange(3)
    if forms == 0:
        return _mul(s, _mul(s, x, more), _c(s, 0.5, x))
    if forms == 1:
        return _mul(s, x, _mul(s, more, _c(s, 0.5, x)))
    return _mul(s, _mul(s, x, _c(s, 0.5, x)), more)


def hard(s: Scope) -> Item:
    """HardSigmoid and HardSwish in their forms."""
    x = s.floats()
    if x.dtype != np.float32:
        raise Misfit
    shifted = _add(s, x, _c(s, 3, x))
    kind = s.random.randrange(3)
    if kind == 0:
        held = s.clip(shifted, 0.0, _nearly(s, 6.0))
    elif kind == 1:
        held = s.node("Min", s.node("Relu", shifted), _c(s, 6, x))
    else:
        held = s.node("Max", s.node("Min", shifted, _c(s, 6, x)), _c(s, 0, x))
    if s.chance(0.5):
        gate = s.node("Div", held, _c(s, 6, x))
        return gate if s.chance(0.3) else _mul(s, x, gate)
    return s.node("Div", _mul(s, x, held), _c(s, 6, x))


def smooth(s: Scope) -> Item:
    x = s.floats()
    kind = s.random.randrange(7)
    if kind == 0:
        return _mul(s, x, s.node("Sigmoid", x))
    if kind == 1:
        below = _add(s, s.node("Exp", s.node("Neg", x)), _c(s, 1, x))
        return s.node("Div", _c(s, 1, x), below) if s.chance(0.5) else s.node("Reciprocal", below)
    if kind == 2:
        return s.node("Log", _add(s, s.node("Exp", s.clip(x, -8.0, 8.0)), _c(s, 1, x)))
    if kind == 3:
        return _mul(s, x, s.node("Tanh", s.node("Softplus", x)))
    if kind == 4:
        return s.node("Div", x, _add(s, s.node("Abs", x), _c(s, 1, x)))
    if kind == 5:
        return _mul(s, x, s.node("Sigmoid", _mul(s, x, _c(s, 1.702, x))))
    half = _add(s, s.node("Tanh", _mul(s, x, _c(s, 0.5, x))), _c(s, 1, x))
    return _mul(s, half, _c(s, 0.5, x))


def rectifier(s: Scope) -> Item:
    x = s.floats()
    kind = s.random.randrange(4)
    if kind == 0:
        return s.node("Max", x, _mul(s, x, _c(s, 0.1, x)))
    if kind == 1:
        negative = s.node("Neg", s.node("Relu", s.node("Neg", x)))
        slope = s.constant(s.array(slot(s, x), x.dtype))
        return _add(s, s.node("Relu", x), _mul(s, negative, slope))
    if kind == 2:
        slope = s.array(slot(s, x), x.dtype)
        if s.chance(0.3):
            slope = np.full_like(slope, 0.25)
        return s.node("PRelu", x, s.constant(slope))
    return s.node("Max", *s.random.sample([x, _c(s, 0, x)], 2))


def softmax(s: Scope) -> Item:
    x = s.floats(1)
    axis = s.random.choice([x.rank - 1, x.rank - 1, s.random.randrange(x.rank)])
    axis -= x.rank if s.opset >= 11 and s.chance(0.5) else 0
    top = (
        s.node("ReduceMax", x, axes=[axis]) if s.opset < 18 else s.with_axes("ReduceMax", x, [axis])
    )
    shifted = s.node("Sub", x, top)
    raised = s.node("Exp", shifted)
    keep = int(s.chance(0.9))
    total = s.with_axes("ReduceSum", raised, [axis], keepdims=keep)
    if s.chance(0.6):
        return s.node("Div", raised, total)
    return s.node("Sub", shifted, s.node("Log", total))


def plain_softmax(s: Scope) -> Item:
    x = s.floats(1)
    return s.node(s.random.choice(("Softmax", "LogSoftmax")), x, axis=s.random.randrange(x.rank))


# normalizations, written out


def normalization(s: Scope) -> Item:
    x = s.floats(2)
    axes = [-1 if s.opset >= 11 else x.rank - 1] if s.chance(0.6) else axes_of(s, x)
    if any(x.shape[axis] < 2 for axis in axes):
        raise Misfit
    mean = s.with_axes("ReduceMean", x, axes)
    centred = s.node("Sub", x, mean)
    if s.chance(0.15):
        centred = x
    square = s.node("Pow", centred, _c(s, 2, x)) if s.chance(0.5) else _mul(s, centred, centred)
    variance = s.with_axes("ReduceMean", square, axes, keepdims=int(s.chance(0.95)))
    deviation = s.node("Sqrt", _add(s, variance, s.number(0.1, x.dtype)))
    if s.chance(0.5):
        y = s.node("Div", centred, deviation)
    else:
        y = _mul(s, centred, s.node("Reciprocal", deviation))
    if s.chance(0.7):
        y = _mul(s, y, s.constant(s.array(slot(s, x), x.dtype)))
        if s.chance(0.8):
            y = _add(s, y, s.constant(s.array(slot(s, x), x.dtype)))
    return y


def group(s: Scope) -> Item:
    """InstanceNormalization, of channels in groups or alone."""
    x = s.floats(3)
    if x.shape[1] % 2 or not x.shape[1] or 0 in x.shape:
        raise Misfit
    groups = s.random.choice([1, 2, x.shape[1]])
    y = s.reshape(x, [x.shape[0], groups, -1 if s.chance(0.7) else 1])
    scale = np.ones(groups) if s.chance(0.6) else s.array((groups,), x.dtype)
    bias = np.zeros(groups) if s.chance(0.6) else s.array((groups,), x.dtype)
    y = s.node(
        "InstanceNormalization",
        y,
        s.constant(scale.astype(x.dtype)),
        s.constant(bias.astype(x.dtype)),
        epsilon=0.1,
    )
    return affine(s, s.reshape(y, x.shape), 1)


def reduction(s: Scope) -> Item:
    x = s.floats(1)
    if s.chance(0.3):
        x = s.random.choice([lambda: _mul(s, x, x), lambda: s.node("Abs", x)])()
    op_type = s.random.choice(REDUCTIONS)
    axes = axes_of(s, x)
    keep = int(s.chance(0.5))
    y = s.with_axes(op_type, x, axes, keepdims=keep)
    kind = s.random.randrange(5)
    if kind == 0 and y.rank:
        return s.with_axes(op_type, y, axes_of(s, y), keepdims=keep)
    if kind == 1 and keep:
        return s.with_axes("Squeeze", y, axes)
    if kind == 2 and not keep:
        return s.with_axes("Unsqueeze", y, [axis % x.rank for axis in axes])
    if kind == 3:
        count = math.prod(x.shape[axis] for axis in axes)
        if op_type == "ReduceSum" and count:
            return s.node("Div", y, _c(s, count, x))
        return s.node("Sqrt", s.node("Abs", y))
    return y


def reduction_of_all(s: Scope) -> Item:
    return s.node(s.random.choice(REDUCTIONS), s.floats(), keepdims=s.random.randrange(2))


def arg(s: Scope) -> Item:
    x = s.floats(1)
    axis = s.random.randrange(x.rank)
    if not x.shape[axis]:
        raise Misfit
    return s.node("ArgMax", x, axis=axis, keepdims=s.random.randrange(2))


FORMULAS: tuple[Snippet, ...] = (
    gelu,
    hard,
    smooth,
    rectifier,
    softmax,
    plain_softmax,
    normalization,
    normalization,
    group,
    reduction,
    reduction,
    reduction_of_all,
    arg,
)
