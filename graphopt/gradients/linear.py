"""Gradients of products of matrices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.gradients.call import Array, Call, Rule, fold


def _gemm(call: Call, index: int) -> Array:
    if index == 2:
        return fold(call.number("beta", 1.0) * call.dy, call.input(2).shape)
    turned = call.flag("transA"), call.flag("transB")
    if index == 0:
        b = call.input(1)
        gradient = call.dy @ (b if turned[1] else b.T)
    else:
        gradient = (call.x if turned[0] else call.x.T) @ call.dy
    gradient = gradient.T if turned[index] else gradient
    return np.asarray(call.number("alpha", 1.0) * gradient)


def _matmul(call: Call, index: int) -> Array:
    a, b, dy = call.x, call.input(1), call.dy
    if a.ndim == 1:
        a, dy = a[None], np.expand_dims(dy, -1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        b = b[:, None]
        dy = dy if call.x.ndim == 1 else dy[..., None]
    if b.ndim == 2 and index == 0:
        gradient = dy @ b.T
    elif b.ndim == 2:  # one large product, rather than a sum over many
        gradient = a.reshape(-1, a.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
    elif index == 0:
        gradient = fold(dy @ np.swapaxes(b, -1, -2), a.shape)
    else:
        gradient = fold(np.swapaxes(a, -1, -2) @ dy, b.shape)
    return np.reshape(gradient, call.input(index).shape)


def is_plain_einsum(node: ir.Node) -> bool:
    """Whether an Einsum has an output of its own, no ellipsis, and no letter twice in a term."""
    text = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    if "->" not in text or "." in text:
        return False
    return all(len(set(term)) == len(term) for term in text.replace("->", ",").split(","))


def _einsum(call: Call, index: int) -> Array:
    text = (call.node.attributes.get_string("equation", "") or "").replace(" ", "")
    left, result = text.split("->")
    terms = left.split(",")
    others = [n for n in range(len(terms)) if n != index]
    seen = set(result).union(*(terms[n] for n in others))
    kept = "".join(letter for letter in terms[index] if letter in seen)
    equation = ",".join([result, *(terms[n] for n in others)]) + "->" + kept
    gradient = np.einsum(equation, call.dy, *(call.input(n) for n in others), optimize=True)
    # Along a letter that no other term has, the operand was summed: all of it gets the same.
    alone = tuple(axis for axis, letter in enumerate(terms[index]) if letter not in seen)
    return np.broadcast_to(np.expand_dims(gradient, alone), call.input(index).shape)


RULES: dict[str, Rule] = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
