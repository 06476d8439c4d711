"""Pieces of graphs that rewrites look for, and what is nearly but not quite like them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from fuzz_builder import Item, Misfit, Scope
from onnx import helper

Snippet = Callable[[Scope], object]

UNARY = ("Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Identity", "Erf", "Sign", "Floor", "Ceil")
UNARY += ("Softplus", "Softsign", "HardSigmoid", "Elu", "LeakyRelu", "Sin", "Cos", "Atan", "Round")
BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Add", "Mul")


def axes_of(s: Scope, x: Item, count: int | None = None) -> list[int]:
    """Some axes of `x`, in order, a few of them counted from the end."""
    if not x.rank:
        raise Misfit
    number = s.random.randint(1, x.rank) if count is None else count
    axes = sorted(s.random.sample(range(x.rank), min(number, x.rank)))
    if s.opset >= 11 and s.chance(0.3):
        axes = [axis - x.rank for axis in axes]
    return axes


def slot(s: Scope, x: Item) -> tuple[int, ...]:
    """A shape that broadcasts to that of `x`: a number, a channel, the last axis, everything."""
    shapes: list[tuple[int, ...]] = [(), (1,), x.shape, (1,) * x.rank]
    if x.rank:
        shapes += [x.shape[-1:], x.shape[-1:]]
    if x.rank > 1:
        channel = (x.shape[1],) + (1,) * (x.rank - 2)
        shapes += [channel, (1, *channel), channel]
    return s.random.choice(shapes)


def image(s: Scope) -> Item:
    return s.pick(lambda item: item.is_float and item.rank == 4 and 0 not in item.shape)


# element by element


def unary(s: Scope) -> Item:
    return s.node(s.random.choice(UNARY), s.pick())


def twice(s: Scope) -> Item:
    op_type = s.random.choice((*UNARY, "Not", "Reciprocal"))
    return s.node(op_type, s.node(op_type, s.pick()))


def binary(s: Scope) -> Item:
    a = s.pick()
    b = s.pick(lambda item: item.dtype == a.dtype)
    op_type = s.random.choice(BINARY)
    if op_type == "Div":
        op_type = "Mul"
    return s.node(op_type, a, b)


def affine(s: Scope, x: Item | None = None, steps: int | None = None) -> Item:
    """A chain of scales and shifts by constants."""
    x = s.floats() if x is None else x
    for _ in range(s.random.randint(1, 4) if steps is None else steps):
        op_type = s.random.choice(("Add", "Sub", "Mul", "Div", "Neg", "Add", "Mul"))
        if op_type == "Neg":
            x = s.node("Neg", x)
            continue
        data = s.array(slot(s, x), x.dtype)
        if s.chance(0.15):
            data = np.full_like(data, s.random.choice([0.0, -0.0, 1.0, -1.0, 2.0]))
        if op_type == "Div":
            data = np.where(data == 0, 1, data).astype(data.dtype)
        operands = [x, s.constant(data)]
        if op_type != "Div" and s.chance(0.3):
            operands.reverse()
        x = s.node(op_type, *operands)
    return x


def integer_arithmetic(s: Scope) -> Item:
    x = s.pick(lambda item: item.dtype.kind in "iu")
    op_type = s.random.choice(("Add", "Sub", "Mul", "Div", "Add", "Mul"))
    c = s.constant(s.array(slot(s, x), x.dtype))
    return s.node(op_type, x, c)


def ranges(s: Scope) -> Item:
    """Clip, Min, Max and Relu in a row."""
    x = s.floats()
    for _ in range(s.random.randint(1, 4)):
        low, high = sorted(round(s.random.uniform(-2, 2), 1) for _ in range(2))
        kind = s.random.choice(("clip", "Min", "Max", "Relu"))
        if kind == "clip":
            ends = [low, high] if s.chance(0.9) else [high, low]
            ends = [end if s.chance(0.8) else None for end in ends]
            if x.dtype != np.float32 and s.opset < 12:
                raise Misfit
            x = s.clip(x, *ends)
        elif kind == "Relu":
            x = s.node("Relu", x)
        else:
            c = s.number(s.random.choice([low, high, 0.0, -0.0, 6.0]), x.dtype)
            x = s.node(kind, *s.random.sample([x, c], 2))
    return x


def neutral(s: Scope) -> Item:
    """An operator that does nothing, or nearly."""
    x = s.pick(lambda item: item.dtype.kind in "fi")
    op_type, number = s.random.choice(
        [
            ("Mul", 1),
            ("Div", 1),
            ("Add", 0),
            ("Add", -0.0),
            ("Sub", 0),
            ("Pow", 1),
            ("Pow", 2),
            ("Mul", 0),
            ("Mul", -1),
            ("Max", 0),
        ]
    )
    if x.dtype.kind == "i" and op_type in ("Pow", "Max"):
        raise Misfit
    data = np.full(slot(s, x), number).astype(x.dtype)
    if data.size > 1 and s.chance(0.2):
        data.reshape(-1)[-1] = 3
    operands = [x, s.constant(data)]
    if op_type in ("Mul", "Add") and s.chance(0.5):
        operands.reverse()
    return s.node(op_type, *operands)


def cast(s: Scope) -> Item:
    x = s.pick()
    for _ in range(s.random.randint(1, 3)):
        kinds = ("f4", "f8", "i8", "i4", "?", "f2")
        target = np.dtype(s.random.choice(kinds if x.dtype.kind != "f" else ("f4", "f8", "f2")))
        if x.dtype.kind == "f" and s.chance(0.1):
            target = np.dtype("?")
        x = _cast(s, x, target)
    return x


def _cast(s: Scope, x: Item, target: np.dtype) -> Item:
    return s.node("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


def back_to_float(s: Scope) -> Item:
    return _cast(s, s.pick(lambda item: item.dtype != np.float32), np.dtype("f4"))


def choice(s: Scope) -> Item:
    """A comparison, and a Where by it."""
    x = s.floats()
    c = s.number(s.random.choice([0.0, 0.5, -1.0]), x.dtype)
    op_type = s.random.choice(("Greater", "Less", "GreaterOrEqual", "LessOrEqual"))
    condition = s.node(op_type, *s.random.sample([x, c], 2))
    if s.chance(0.3):
        condition = s.node("Not", condition)
    if s.chance(0.1):
        condition = s.constant(np.full((), s.chance(0.5)))
    other = s.pick(lambda item: item.dtype == x.dtype)
    if s.chance(0.5):
        other = s.node("Mul", x, s.number(0.1, x.dtype))
    return s.node("Where", condition, *s.random.sample([x, other], 2))


def logic(s: Scope) -> Item:
    a = s.pick(lambda item: item.dtype == np.bool_)
    if s.chance(0.4):
        return s.node("Not", s.node("Not", a) if s.chance(0.6) else a)
    data = np.full(slot(s, a), s.chance(0.5))
    return s.node(s.random.choice(("And", "Or", "Xor")), a, s.constant(data))


ELEMENTWISE: tuple[Snippet, ...] = (
    unary,
    twice,
    binary,
    binary,
    affine,
    affine,
    integer_arithmetic,
    ranges,
    neutral,
    neutral,
    cast,
    back_to_float,
    choice,
    logic,
)
