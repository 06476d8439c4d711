"""Einsum by equations that other operators stand for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter, Rule
from graphopt.rewriting.axes import axes_for

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def _einsum(node: ir.Node, at: Rewriter) -> bool:
    """An Einsum that is a Transpose, ReduceSum, Mul, MatMul or Gemm."""
    parsed = _parse(node, at)
    if parsed is None or at.dtype(node.inputs[0]) not in (*_FLOATS, *_INTEGERS):
        return False
    terms, result = parsed
    if len(terms) == 1:
        return _one_term(node, at, terms[0], result)
    if len(terms) != 2:
        return False
    summed = _summed(node, at, terms, result)
    if summed == "":
        return _product(node, at, terms, result)
    if _matmul(node, at, terms, result, summed) or _gemm(node, at, terms, result, summed):
        return True
    raise DeclinedError("no single operator gives the same")


def _parse(node: ir.Node, at: Rewriter) -> tuple[list[str], str] | None:
    """The labels of each input and of the result, if none is repeated and there is no ellipsis."""
    equation: str = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if "." in equation or len(terms) != len(node.inputs):
        return None
    if not arrow:  # the labels that occur once, in alphabetical order
        labels = "".join(terms)
        result = "".join(label for label in sorted(set(labels)) if labels.count(label) == 1)
    if any(len(set(term)) != len(term) for term in (*terms, result)):
        return None
    ranks = [at.rank(value) for value in node.inputs]
    if ranks != [len(term) for term in terms] or not set(result) <= set("".join(terms)):
        return None
    return terms, result


def _one_term(node: ir.Node, at: Rewriter, term: str, result: str) -> bool:
    """A permutation, or a sum over axes that leaves the others in their order."""
    if len(result) == len(term):
        if result == term or not at.has_operator("Transpose", 1):
            return False
        at.become(node, "Transpose", [node.inputs[0]], {"perm": [term.index(x) for x in result]})
        return True
    if [label for label in term if label in result] != list(result):
        raise DeclinedError("it takes both a Transpose and a ReduceSum")
    if not at.has_operator("ReduceSum", 1):
        return False
    axes = [axis for axis, label in enumerate(term) if label not in result]
    inputs, attributes = axes_for(at, "ReduceSum", axes, node)
    at.become(node, "ReduceSum", [node.inputs[0], *inputs], {**attributes, "keepdims": 0})
    return True


def _summed(node: ir.Node, at: Rewriter, terms: Sequence[str], result: str) -> str:
    """The label over which products are summed; "" if over none."""
    summed = [label for label in "".join(terms) if label not in result]
    if not summed:
        return ""
    label = summed[0]
    if len(summed) != 2 or summed[1] != label:
        raise DeclinedError("it sums over more than one label, or over one of a single input")
    extents = []
    for value, term in zip(node.inputs, terms, strict=True):
        dims = at.dims(value)
        extents.append(None if dims is None else dims[term.index(label)])
    if extents[0] is None or extents[0] != extents[1]:  # Einsum repeats an axis of size 1
        raise DeclinedError(f"the axes '{label}' may differ in size")
    return label


def _product(node: ir.Node, at: Rewriter, terms: Sequence[str], result: str) -> bool:
    if result not in terms or not all(result.endswith(term) for term in terms):
        raise DeclinedError("it takes an Unsqueeze or a Transpose as well")
    if not at.has_operator("Mul", 7):
        return False
    at.become(node, "Mul", node.inputs)
    return True


def _matmul(node: ir.Node, at: Rewriter, terms: Sequence[str], result: str, summed: str) -> bool:
    """MatMul of the inputs in either order. A constant may have its axes in any order."""
    if not at.has_operator("MatMul", 1):
        return False
    for first, second in ((0, 1), (1, 0)):
        wanted = _matmul_terms(terms[first], terms[second], result, summed)
        pairs = () if wanted is None else ((first, wanted[0]), (second, wanted[1]))
        if pairs and all(_can_be(node, at, i, terms[i], term) for i, term in pairs):
            at.become(node, "MatMul", [_arranged(node, at, i, terms[i], t) for i, t in pairs])
            return True
    return False


def _matmul_terms(left: str, right: str, result: str, summed: str) -> tuple[str, str] | None:
    """The labels that the inputs of a MatMul that gives `result` have, in order."""
    if right == summed:
        return result + summed, summed
    if left == summed:
        return summed, result[:-1] + summed + result[-1:]
    batch, rows, columns = result[:-2], result[-2:-1], result[-1:]
    if not rows or rows in right or columns in left:
        return None
    ours, theirs = ("".join(x for x in batch if x in term) for term in (left, right))
    if batch not in (ours, theirs) or not (batch.endswith(ours) and batch.endswith(theirs)):
        return None
    return ours + rows + summed, theirs + summed + columns


def _can_be(node: ir.Node, at: Rewriter, index: int, term: str, wanted: str) -> bool:
    return term == wanted or (at.is_constant(node.inputs[index]) and set(term) == set(wanted))


def _arranged(node: ir.Node, at: Rewriter, index: int, term: str, wanted: str) -> ir.Value | None:
    """Input `index`, its axes as `wanted`."""
    value = node.inputs[index]
    if value is None or term == wanted:
        return value
    perm = [term.index(x) for x in wanted]
    return at.compute(
        node, "Transpose", [value], {"perm": perm}, by=partial(np.transpose, axes=perm)
    )


def _gemm(node: ir.Node, at: Rewriter, terms: Sequence[str], result: str, summed: str) -> bool:
    """Gemm of two matrices, either of which may be transposed."""
    if [len(term) for term in terms] != [2, 2] or at.dtype(node.inputs[0]) not in _FLOATS:
        return False
    if len(result) != 2 or not at.has_operator("Gemm", 11):
        return False
    first = 0 if result[0] in terms[0] else 1
    left, right = terms[first], terms[1 - first]
    attributes = {"transA": int(left[0] == summed), "transB": int(right[1] == summed)}
    at.become(node, "Gemm", [node.inputs[first], node.inputs[1 - first]], attributes)
    return True


RULES = (Rule("einsum", ("Einsum",), _einsum),)
