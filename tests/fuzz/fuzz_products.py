"""Pieces of graphs that multiply by weights, and what stands beside them."""

from __future__ import annotations

import math

import numpy as np
from fuzz_builder import Item, Misfit, Scope
from fuzz_snippets import Snippet, affine, image


def conv(s: Scope, x: Item | None = None) -> Item:
    x = image(s) if x is None else x
    channels = x.shape[1]
    groups = s.random.choice([1, 1, 1, channels])
    out = groups * s.random.randint(1, 3)
    kernel = [s.random.choice([1, 1, 2, 3]) for _ in range(2)]
    more: dict[str, object] = {}
    if s.chance(0.4):
        more["pads"] = [s.random.randint(0, 1) for _ in range(4)]
    if s.chance(0.2):
        more["strides"] = [s.random.randint(1, 2) for _ in range(2)]
    weight = s.constant(s.array((out, channels // groups, *kernel), x.dtype))
    bias = [s.constant(s.array((out,), x.dtype))] if s.chance(0.4) else []
    return s.node("Conv", x, weight, *bias, group=groups, **more)


def conv_transpose(s: Scope) -> Item:
    x = image(s)
    weight = s.constant(s.array((x.shape[1], s.random.randint(1, 3), 2, 2), x.dtype))
    return batch_norm(s, s.node("ConvTranspose", x, weight))


def batch_norm(s: Scope, x: Item | None = None) -> Item:
    x = s.floats(2) if x is None else x
    channels = x.shape[1]
    arrays = [s.array((channels,), x.dtype) for _ in range(4)]
    arrays[3] = np.abs(arrays[3])
    return s.node("BatchNormalization", x, *(s.constant(array) for array in arrays))


def conv_and_more(s: Scope) -> Item:
    x = image(s)
    if s.chance(0.3):
        pads = [0, 0, *(s.random.randint(0, 1) for _ in range(2))] * 2
        x = s.pad(x, pads, s.random.choice([0.0, 0.0, 0.0, 1.0]))
    if s.chance(0.3):
        x = affine(s, x, 1) if s.chance(0.5) else batch_norm(s, x)
    y = conv(s, x)
    for _ in range(s.random.randint(1, 3)):
        y = s.random.choice((lambda v: affine(s, v, 1), lambda v: batch_norm(s, v)))(y)
    return conv(s, y) if s.chance(0.3) else y


def pool(s: Scope) -> Item:
    x = image(s)
    if s.chance(0.4):
        low = float(np.finfo(np.float32).min)
        pads = [0, 0, *(s.random.randint(0, 1) for _ in range(2))] * 2
        x = s.pad(x, pads, s.random.choice([0.0, 0.0, -math.inf, low]))
    kernel = [s.random.choice([1, 2, 3]) for _ in range(2)]
    op_type = s.random.choice(("MaxPool", "AveragePool", "GlobalAveragePool", "LpPool"))
    if op_type == "GlobalAveragePool":
        return view_of_pool(s, s.node(op_type, x))
    more = {"count_include_pad": 1} if op_type == "AveragePool" and s.chance(0.5) else {}
    pads = [min(k - 1, s.random.randint(0, 1)) for k in kernel] * 2
    return s.node(op_type, x, kernel_shape=kernel, pads=pads, **more)


def view_of_pool(s: Scope, x: Item) -> Item:
    if s.chance(0.5):
        return s.node("Flatten", x)
    return s.with_axes("Squeeze", x, [2, 3])


def matmul(s: Scope) -> Item:
    """A product with a constant, and a bias; some ways lead to Gemm."""
    x = s.pick(lambda item: item.is_float and item.rank > 1 and 0 not in item.shape)
    y = x
    if s.chance(0.2):
        y = affine(s, y, 1)
    if s.chance(0.2):
        y = s.node("Transpose", y, perm=[*range(y.rank - 2), y.rank - 1, y.rank - 2])
    for _ in range(s.random.randint(1, 2)):
        width = s.random.randint(1, 6)
        weight = s.constant(s.array((y.shape[-1], width), y.dtype))
        if s.chance(0.2):
            turned = s.constant(s.array((width, y.shape[-1]), y.dtype))
            weight = s.node("Transpose", turned, perm=[1, 0])
        if s.chance(0.3) and y.rank > 2:
            flat = s.reshape(y, [math.prod(y.shape[:-1]), y.shape[-1]])
            y = s.reshape(s.node("MatMul", flat, weight), [*y.shape[:-1], width])
        else:
            y = s.node("MatMul", y, weight)
    return affine(s, y, s.random.randint(0, 2))


def gemm(s: Scope) -> Item:
    x = s.pick(lambda item: item.is_float and item.rank == 2 and 0 not in item.shape)
    flags = {name: s.random.randrange(2) for name in ("transA", "transB")}
    inner = x.shape[0] if flags["transA"] else x.shape[1]
    rows = x.shape[1] if flags["transA"] else x.shape[0]
    width = s.random.randint(1, 5)
    weight = s.array((width, inner) if flags["transB"] else (inner, width), x.dtype)
    more = {name: s.random.choice([0.5, 2.0]) for name in ("alpha", "beta") if s.chance(0.2)}
    inputs = [x, s.constant(weight)]
    if s.chance(0.6) or s.opset < 11:
        shapes = [(width,), (1, width), (1,), (rows, 1), (rows, width), ()]
        inputs.append(s.constant(s.array(s.random.choice(shapes), x.dtype)))
    return affine(s, s.node("Gemm", *inputs, **flags, **more), s.random.randint(0, 2))


def parallel(s: Scope) -> Item:
    """Products with one input, next to each other."""
    x = s.pick(lambda item: item.is_float and item.rank > 1 and 0 not in item.shape)
    found = []
    width = s.random.randint(1, 4)
    for _ in range(s.random.randint(2, 3)):
        y = s.node("MatMul", x, s.constant(s.array((x.shape[-1], width), x.dtype)))
        if s.chance(0.7):
            y = s.node("Add", y, s.constant(s.array((width,), x.dtype)))
        found.append(y)
    return s.node("Concat", *found, axis=x.rank - 1)


def attention(s: Scope) -> Item:
    """softmax(q k^T / sqrt(d) + mask) v, of one head or more."""
    x = s.pick(lambda item: item.is_float and item.rank == 3 and 0 not in item.shape)
    n, length, width = x.shape
    heads = s.random.choice([1, 2]) if width % 2 == 0 else 1
    d = width // heads

    def project(perm: list[int]) -> Item:
        y = s.node("MatMul", x, s.constant(s.array((width, width), x.dtype, 0.5)))
        return s.node("Transpose", s.reshape(y, [n, length, heads, d]), perm=perm)

    q, k, v = (project(perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scale = 1 / math.sqrt(d) if s.chance(0.8) else 0.3
    if s.chance(0.5):
        q = s.node("Mul", q, s.number(scale, x.dtype))
        scores = s.node("MatMul", q, k)
    else:
        scores = s.node("Mul", s.node("MatMul", q, k), s.number(scale, x.dtype))
    if s.chance(0.3):
        scores = s.node("Add", scores, s.constant(s.array((length, length), x.dtype)))
    weights = s.node("Softmax", scores, axis=3 if s.chance(0.9) else 2)
    y = s.node("Transpose", s.node("MatMul", weights, v), perm=[0, 2, 1, 3])
    return s.reshape(y, [n, length, width])


def quantized(s: Scope) -> Item:
    x = s.pick(lambda item: item.dtype == np.float32)
    if s.opset < 10:
        raise Misfit
    scale, zero = s.number(0.05, "f4"), s.constant(np.array(s.random.choice([0, 3]), "i1"))
    scale = s.constant(np.array(0.05, "f4"))
    y = s.node("QuantizeLinear", x, scale, zero)
    for _ in range(s.random.randint(0, 2)):
        y = s.node("DequantizeLinear", y, scale, zero)
        y = s.node("QuantizeLinear", y, scale, zero)
    return s.node("DequantizeLinear", y, scale, zero)


def dropout(s: Scope) -> Item:
    x = s.floats()
    if s.opset < 12:
        return s.node("Dropout", x, ratio=0.4)
    more = [s.constant(np.array(0.4, "f4"))] if s.chance(0.5) else []
    if more and s.chance(0.5):
        more.append(s.initializer(np.array(False)))  # where tools/conformance_engines.py looks
    return s.nodes_outputs("Dropout", [x, *more], s.random.choice([1, 1, 2]), {})[0]


def resize(s: Scope) -> Item:
    x = image(s)
    if s.opset < 11 or x.dtype != np.float32:
        raise Misfit
    scales = s.constant(np.array([1, 1, s.random.choice([1, 2]), s.random.choice([1, 2])], "f4"))
    roi = s.constant(np.zeros(0, "f4")) if s.opset < 13 else None
    more = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return s.node("Resize", x, roi, scales, mode="nearest", **more)


def einsum(s: Scope) -> Item:
    x = s.pick(lambda item: item.is_float and item.rank == 3 and 0 not in item.shape)
    y = s.pick(lambda item: item.dtype == x.dtype and item.rank == 3 and 0 not in item.shape)
    equation = s.random.choice(
        ["abc,acd->abd", "abc,adc->abd", "abc,abd->acd", "abc,abc->ab", "abc->acb", "abc->b"]
    )
    return s.node("Einsum", *([x, y] if "," in equation else [x]), equation=equation)


PRODUCTS: tuple[Snippet, ...] = (
    conv,
    conv_transpose,
    batch_norm,
    conv_and_more,
    conv_and_more,
    pool,
    matmul,
    matmul,
    gemm,
    gemm,
    parallel,
    attention,
    quantized,
    dropout,
    resize,
    einsum,
)
