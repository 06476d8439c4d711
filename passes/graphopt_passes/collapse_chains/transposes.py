"""Chains of Transposes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.collapse_chains.common import gives_way, hand_on


def permutation(node: ir.Node, at: Rewriter) -> list[int] | None:
    """The perm of a Transpose, written or not; None if it depends on an unknown rank."""
    perm = node.attributes.get("perm")
    if perm is not None:
        return list(perm.as_ints())
    rank = at.rank(node.inputs[0])
    return None if rank is None else list(reversed(range(rank)))


def composed(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The perm of a Transpose that does `first`, then `second`."""
    return [first[axis] for axis in second]


def merge_transposes(node: ir.Node, at: Rewriter) -> bool:
    """A Transpose of a Transpose is one Transpose, or none."""
    inner = at.producer(node.inputs[0], "Transpose")
    if inner is None:
        return False
    source = inner.inputs[0]
    if "perm" not in node.attributes and "perm" not in inner.attributes:
        return hand_on(node, source, at)  # reversed twice, whatever the rank
    first, second = permutation(inner, at), permutation(node, at)
    if first is None and second is not None:
        first = list(reversed(range(len(second))))
    elif second is None and first is not None:
        second = list(reversed(range(len(first))))
    if first is None or second is None or len(first) != len(second):
        return False
    perm = composed(first, second)
    if perm == sorted(perm):
        return hand_on(node, source, at)
    if not gives_way(inner, at, "Transpose"):
        raise DeclinedError("what the first Transpose gives is used elsewhere too")
    at.become(node, "Transpose", [source], {"perm": perm})
    return True
