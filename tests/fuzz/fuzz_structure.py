"""Pieces of graphs that ask for shapes or contain graphs; and all pieces."""

from __future__ import annotations

import math

import numpy as np
from fuzz_builder import Item, Misfit, Scope
from fuzz_formulas import FORMULAS
from fuzz_moves import MOVES
from fuzz_products import PRODUCTS
from fuzz_snippets import ELEMENTWISE, Snippet, affine, unary
from onnx import helper


def shape_of(s: Scope, x: Item) -> Item:
    item = s.node("Shape", x)
    return s.known(item, np.array(x.shape, np.int64))


def reshape_by_shape(s: Scope) -> Item:
    """x.reshape(x.shape[0], -1), or to the shape of another value, as exporters write it."""
    x = s.pick(lambda item: item.rank > 0)
    shape = shape_of(s, x)
    if s.chance(0.3):
        y = affine(s, x, 1) if x.is_float else x
        return s.node(s.random.choice(("Reshape", "Expand")), y, shape)
    sizes: list[Item] = []
    keep = s.random.randint(1, x.rank)
    for axis in range(keep):
        index = s.ints(axis) if s.chance(0.3) else s.constant(np.int64(axis))
        size = s.node("Gather", shape, index, axis=0)
        if not size.rank:
            if s.chance(0.3):
                size = s.node("Mul", size, s.constant(np.int64(1)))
            size = s.with_axes("Unsqueeze", size, [0])
        sizes.append(s.known(size, np.array([x.shape[axis]], np.int64)))
    rest = math.prod(x.shape[keep:])
    if not rest:
        raise Misfit
    tail = s.ints(-1) if s.chance(0.7) else s.ints(rest)
    target = s.node("Concat", *sizes, tail, axis=0)
    target = s.known(target, np.array([*x.shape[:keep], *tail.data], np.int64))
    return s.node("Reshape", x, target)


def shape_arithmetic(s: Scope) -> Item:
    x = s.pick(lambda item: item.rank > 1)
    shape = shape_of(s, x)
    part = s.slice(shape, [0], [s.random.choice([1, 2, -1])], [0])
    y = s.node(s.random.choice(("Mul", "Add", "Sub")), part, s.ints(s.random.choice([1, 2, 0])))
    y = s.node("Concat", y, part, axis=0)
    return s.node("Cast", y, to=1)


def fill(s: Scope) -> Item:
    """A constant as large as another value, and arithmetic with it."""
    x = s.floats(1)
    if s.opset < 9:
        raise Misfit
    value = helper.make_tensor(
        "value", helper.np_dtype_to_tensor_dtype(x.dtype), [1], [s.random.choice([0, 1, 2])]
    )
    full = s.node("ConstantOfShape", shape_of(s, x), value=value)
    return s.node(s.random.choice(("Add", "Mul")), x, full)


def branch(s: Scope) -> Item:
    """An If whose branches use values from around it."""
    x = s.floats()
    kind = s.random.randrange(3)
    if kind == 0:
        condition = s.constant(np.array(s.chance(0.5)))
    else:
        total = s.node("ReduceSum", x, keepdims=0)
        condition = s.node("Greater", total, s.constant(np.array(0, x.dtype)))
    bodies = []
    seed = s.random.getrandbits(32)
    for index in range(2):
        inner = Scope(seed if kind == 2 else seed + index, s)
        y = inner.node("Identity", x)
        for _ in range(inner.random.randint(1, 3)):
            attempt(inner, inner.random.choice((unary, affine, *ELEMENTWISE, *MOVES)))
        y = inner.pick(lambda item: item.dtype == x.dtype)
        y = inner.reshape(y, [-1]) if y.rank != 1 else y
        out = inner.node("Identity", y)
        bodies.append((inner.graph(f"branch{index}", [out]), out))
    name = s.name()
    s.nodes.append(
        helper.make_node(
            "If", [condition.name], [name], then_branch=bodies[0][0], else_branch=bodies[1][0]
        )
    )
    then, other = bodies[0][1], bodies[1][1]
    if then.shape != other.shape:
        name2 = s.name()
        s.nodes.append(helper.make_node("ReduceMax", [name], [name2], keepdims=0))
        item = Item(name2, x.dtype, ())
    else:
        item = Item(name, x.dtype, then.shape)
    s.items.append(item)
    return item


def loop(s: Scope) -> Item:
    """A Loop that runs a few times."""
    x = s.floats()
    inner = Scope(s.random.getrandbits(32), s)
    state = Item(s.name(), x.dtype, x.shape)
    count, going = Item(s.name(), np.dtype("i8"), ()), Item(s.name(), np.dtype("?"), ())
    inner.items.append(state)
    y = affine(inner, state, 1)
    if y.shape != x.shape:
        raise Misfit
    out = inner.node("Tanh", y)
    keep = inner.node("Identity", going)
    body = inner.graph("body", [keep, out], [count, going, state])
    trips = s.constant(np.array(s.random.choice([0, 1, 2, 3]), np.int64))
    name = s.name()
    first = s.constant(np.array(True))
    s.nodes.append(helper.make_node("Loop", [trips.name, first.name, x.name], [name], body=body))
    s.items.append(Item(name, x.dtype, x.shape))
    return s.items[-1]


def call(s: Scope) -> Item:
    """Calls of a function of the model, on one value or two."""
    if s.parent is not None or s.opset < 13:
        raise Misfit
    x = s.floats()
    inner = Scope(s.random.getrandbits(32), s)
    inner.is_function = True
    parameter = Item(s.name(), x.dtype, x.shape)
    inner.items = [parameter]
    for _ in range(inner.random.randint(1, 3)):
        attempt(inner, inner.random.choice((*ELEMENTWISE, *FORMULAS, *MOVES)))
    result = inner.node("Identity", inner.pick())
    name = f"function{len(s.functions)}"
    s.functions.append(
        helper.make_function(
            "local",
            name,
            [parameter.name],
            [result.name],
            inner.nodes,
            [helper.make_opsetid("", s.opset)],
        )
    )
    others = [item for item in s.items if item.shape == x.shape and item.dtype == x.dtype]
    for given in (x, s.random.choice(others)) if s.chance(0.5) else (x,):
        made = Item(s.name(), result.dtype, result.shape)
        s.nodes.append(helper.make_node(name, [given.name], [made.name], domain="local"))
        s.items.append(made)
    return s.items[-1]


def attempt(s: Scope, snippet: Snippet) -> bool:
    """Adds `snippet` if it fits."""
    counts = len(s.items), len(s.nodes)
    known = list(s.items)
    try:
        snippet(s)
    except Misfit:
        s.items[:] = known
        del s.nodes[counts[1] :]
        kept = {name for node in s.nodes for name in node.output}
        if s.parent is None:
            s.constants[:] = [c for c in s.constants if c.name in kept or _is_weight(s, c.name)]
        return False
    return True


def _is_weight(s: Scope, name: str) -> bool:
    return any(tensor.name == name for tensor in s.weights)


SHAPES: tuple[Snippet, ...] = (reshape_by_shape, reshape_by_shape, shape_arithmetic, fill)
BODIES: tuple[Snippet, ...] = (branch, loop, call)
ALL: tuple[tuple[Snippet, ...], ...] = (ELEMENTWISE, FORMULAS, MOVES, PRODUCTS, SHAPES, BODIES)
