"""Gelu: x times a gate that goes from 0 to 1 as erf or tanh does."""

from __future__ import annotations

import math

import onnx_ir as ir

from graphopt.rewriting import Rewriter, require_private
from graphopt_passes.fuse_activations.algebra import (
    TOLERANCE,
    affine,
    close,
    gated,
    never,
    polynomial,
    require,
)

CUBE = 0.044715


def gelu(node: ir.Node, at: Rewriter) -> bool:
    """x * 0.5 * (1 + erf(x / sqrt(2))), in any order, becomes Gelu, and
    x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) the Gelu that says so."""
    for product in gated(node, at):
        gate = affine(product.gate, at, never)
        bend, dtype = at.producer(gate.value, "Erf", "Tanh"), at.dtype(product.x)
        if bend is None or dtype not in TOLERANCE or gate.shift == 0.0:
            continue
        half, slope = product.scale * gate.shift, gate.scale / gate.shift
        if not close(half, 0.5, dtype) or not close(abs(slope), 1.0, dtype):
            continue
        terms = polynomial(bend.inputs[0], product.x, at)
        if terms is None or not _is_gelu([slope * term for term in terms], bend.op_type, dtype):
            continue
        require(at, "Gelu", 20, product.x)
        require_private(node, [product.x])
        attributes = {"approximate": "tanh"} if bend.op_type == "Tanh" else {}
        at.become(node, "Gelu", [product.x], attributes)
        return True
    return False


def _is_gelu(terms: list[float], curve: str, dtype: ir.DataType) -> bool:
    """Whether the polynomial inside erf or tanh is that of Gelu.

    Both are odd: where the gate is 1 - erf(-x), the signs have been turned.
    """
    if curve == "Erf":
        return len(terms) == 2 and terms[0] == 0.0 and close(terms[1], math.sqrt(0.5), dtype)
    if len(terms) != 4 or terms[0] != 0.0 or terms[2] != 0.0:
        return False
    slope = math.sqrt(2 / math.pi)
    return close(terms[1], slope, dtype) and close(terms[3], slope * CUBE, dtype)
