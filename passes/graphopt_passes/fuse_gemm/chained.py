"""Two linear nodes in a row with constant weights are one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.scaling import cast
from graphopt_passes.fuse_gemm.linear import (
    MAX_COPY,
    MAX_PRODUCTS,
    Linear,
    is_row,
    linear_of,
    multiplied,
)


def join_products(node: ir.Node, at: Rewriter) -> bool:
    """(x @ V + c) @ W + b -> x @ VW + (c @ W + b)."""
    if at.producer(node.inputs[0], "MatMul", "Gemm", "Add") is None:
        return False
    second = linear_of(node, at)
    if second is None or not (at.has_operator("MatMul", 1) and at.has_operator("Add", 7)):
        return False
    found = _first(node, at)
    if found is None:
        return False
    first, bias = found
    inner, outer = first.inputs * first.outputs, second.inputs * second.outputs
    _require_smaller(inner, outer, first.inputs * second.outputs, "matrices")
    _require_cheap(inner * second.outputs)
    _require_room([(first.node, 1), (node, 1)], max(first.tensor.nbytes, second.tensor.nbytes), at)
    weight = multiplied(first.weight(), second.weight(), "km,mn->kn")
    row = second.row(at)
    if bias is not None:
        moved = bias @ second.weight().astype(np.float64)
        row = moved if row is None else row + moved
    shift = None if row is None else cast(row, weight.dtype, "the bias")
    _write(second, first.x, weight, shift, at)
    return True


def _first(node: ir.Node, at: Rewriter) -> tuple[Linear, np.ndarray | None] | None:
    """The product that `node` takes in, with its bias as float64 [outputs]."""
    first = linear_of(at.before(node, 0, "MatMul", "Gemm"), at)
    if first is not None:
        return first, first.row(at)
    add = at.before(node, 0, "Add")
    for index in () if add is None else (0, 1):
        first = linear_of(None if add is None else at.before(add, index, "MatMul"), at)
        if add is None or first is None:
            continue
        if not is_row(add.inputs[1 - index], first.outputs, at.rank(first.x)):
            return None
        array = at.array(add.inputs[1 - index])
        if array is None:
            return None
        bias = array.reshape(-1).astype(np.float64)
        return first, np.broadcast_to(bias, (first.outputs,))
    return None


def _write(
    linear: Linear,
    x: ir.Value | None,
    weight: np.ndarray,
    shift: np.ndarray | None,
    at: Rewriter,
) -> None:
    node = linear.node
    matrix = at.constant(np.ascontiguousarray(weight), linear.base("joined"), node)
    bias = None if shift is None else at.constant(shift, linear.base("bias"), node)
    if node.op_type == "Gemm":
        at.become(node, "Gemm", [x, matrix] if bias is None else [x, matrix, bias])
    elif bias is None:
        at.become(node, "MatMul", [x, matrix])
    else:
        at.become(node, "Add", [at.insert(node, "MatMul", [x, matrix]), bias])


def join_convs(node: ir.Node, at: Rewriter) -> bool:
    """Conv -> Conv of which one is 1x1, without groups -> one Conv."""
    first = at.before(node, 0, "Conv")
    if first is None or not at.is_op(node, "Conv"):
        return False
    dims = [at.facts[conv.inputs[1]].static_dims for conv in (first, node)]
    if any(conv.attributes.get_int("group", 1) != 1 for conv in (first, node)):
        return False
    if not all(
        at.is_constant(value) for conv in (first, node) for value in conv.inputs[1:] if value
    ):
        return False
    one, two = dims
    if one is None or two is None or len(one) != len(two) or len(one) < 3:
        return False
    biases = [_bias(conv, at) for conv in (first, node)]
    attributes = _joined_attributes(first, node, one, two, biases[0] is not None)
    if attributes is None:
        return False
    spatial = one[2:] if math.prod(two[2:]) == 1 else two[2:]
    joined = two[0] * one[1] * math.prod(spatial)
    _require_smaller(math.prod(one), math.prod(two), joined, "kernels")
    _require_cheap(joined * one[0])
    _write_conv(first, node, biases, attributes, at)
    return True


def _joined_attributes(
    first: ir.Node, second: ir.Node, one: tuple[int, ...], two: tuple[int, ...], shifts: bool
) -> dict[str, Any] | None:
    """The attributes of the Conv that does both; None if there is none.

    Args:
        one: the shape of the weight of `first`.
        two: that of `second`.
        shifts: whether `first` has a bias.
    """
    strides = [
        list(conv.attributes.get_ints("strides", [1] * (len(one) - 2))) for conv in (first, second)
    ]
    padded = [not _is_unpadded(conv) for conv in (first, second)]
    if math.prod(two[2:]) == 1 and not padded[1]:  # it picks from what the first gives
        attributes: dict[str, Any] = dict(first.attributes)
        if any(stride != 1 for stride in strides[1]):
            if first.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
                return None
            attributes["strides"] = [a * b for a, b in zip(*strides, strict=True)]
        return attributes
    if math.prod(one[2:]) == 1 and not padded[0] and all(stride == 1 for stride in strides[0]):
        if shifts and padded[1]:
            raise DeclinedError("the bias of the Conv before it does not reach its padding")
        return dict(second.attributes)
    return None


def _is_unpadded(node: ir.Node) -> bool:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    return mode == "VALID" or (mode == "NOTSET" and not any(node.attributes.get_ints("pads", ())))


def _bias(conv: ir.Node, at: Rewriter) -> np.ndarray | None:
    array = at.array(conv.inputs[2]) if len(conv.inputs) > 2 else None
    return None if array is None else array.astype(np.float64)


def _write_conv(
    first: ir.Node,
    second: ir.Node,
    biases: list[np.ndarray | None],
    attributes: dict[str, Any],
    at: Rewriter,
) -> None:
    v, w = at.array(first.inputs[1]), at.array(second.inputs[1])
    if v is None or w is None or v.dtype != w.dtype or at.dtype(first.inputs[1]) is None:
        raise DeclinedError("the weights are not of one type")
    if v.dtype not in (np.float32, np.float64, np.float16):
        raise DeclinedError(f"the weights are of type {v.dtype}")
    _require_room([(first, 1), (second, 1)], max(v.nbytes, w.nbytes), at)
    m, o, i = v.shape[0], w.shape[0], v.shape[1]
    if math.prod(w.shape[2:]) == 1:
        spatial = v.shape[2:]
        joined = multiplied(w.reshape(o, m), v.reshape(m, i, -1), "om,mik->oik")
    else:
        spatial = w.shape[2:]
        joined = multiplied(w.reshape(o, m, -1), v.reshape(m, i), "omk,mi->oik")
    inner, outer = biases
    if inner is not None:
        moved = np.einsum("omk,m->o", w.reshape(o, m, -1).astype(np.float64), inner)
        outer = moved if outer is None else outer + moved
    shift = None if outer is None else cast(outer, w.dtype, "the bias")
    base = second.inputs[1].name if second.inputs[1] is not None else second.name
    inputs = [
        first.inputs[0],
        at.constant(joined.reshape(o, i, *spatial), f"{base}_joined", second),
    ]
    if shift is not None:
        inputs.append(at.constant(shift, f"{base}_bias", second))
    at.become(second, "Conv", inputs, {**attributes, "kernel_shape": list(spatial)})


def _require_smaller(one: int, two: int, joined: int, what: str) -> None:
    if joined > one + two:
        raise DeclinedError(f"the product of the {what} would be larger than both together")


def _require_cheap(products: int) -> None:
    if products > MAX_PRODUCTS:
        raise DeclinedError("the product of the weights would take long to work out")


def _require_room(weights: list[tuple[ir.Node, int]], size: int, at: Rewriter) -> None:
    if size > MAX_COPY and not all(at.owns(node, index) for node, index in weights):
        raise DeclinedError("other nodes share the weights, which are large")
