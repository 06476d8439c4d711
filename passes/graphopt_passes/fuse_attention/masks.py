"""Masks of scores, and what Attention makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dims
from graphopt.rewriting import DeclinedError, Rewriter

# Operators that only move what is in their first input.
_MOVES = ("Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_MAX_MOVES = 8

# The sum of two elements above this is finite in every type.
_SUMMABLE = -1e4


@dataclass(frozen=True)
class Mask:
    value: ir.Value
    """Added to the scores if of their type; or bool, True where a key counts."""
    negated: bool = False
    """Bool, and True where a key does not count."""
    selects: bool = False
    """Put in place of the scores by Where, not added to them."""
    is_causal: bool = False
    other: ir.Value | None = None
    """What is added as well."""
    expanded: tuple[int, ...] = ()
    """What the last two dimensions must first be expanded to."""


def mask_of(node: ir.Node, index: int, at: Rewriter) -> Mask | None:
    """The mask of an Add or Where whose input `index` are the scores."""
    if node.op_type == "Add":
        value = node.inputs[1 - index]
        return None if value is None else _as_bool(Mask(value), at)
    fill, condition = node.inputs[3 - index] if index else None, node.inputs[0]
    if condition is None or not _is_minus_infinity(fill, at):
        return None
    if not at.keeps_shape(fill, node.inputs[index]):
        return None
    return Mask(condition, negated=index == 2, selects=True)


def _is_minus_infinity(value: ir.Value | None, at: Rewriter) -> bool:
    return at.scalar(value) == -np.inf


def _as_bool(mask: Mask, at: Rewriter) -> Mask:
    """Of Where(c, 0, -inf) the condition alone, since Attention does the same with it."""
    node = at.producer(mask.value, "Where")
    if node is None or node.inputs[0] is None:
        return mask
    if not at.is_number(node.inputs[1], 0) or not _is_minus_infinity(node.inputs[2], at):
        return mask
    same = at.dims(node.inputs[0]) == at.dims(mask.value) is not None
    return Mask(node.inputs[0]) if same else mask


def both(one: Mask, other: Mask) -> Mask | None:
    """The sum of two masks that are added; None if one of them is not."""
    if one.selects or other.selects or one.other is not None:
        return None
    return Mask(one.value, other=other.value)


def check(mask: Mask, scores: ir.Value, at: Rewriter, assume_regular: bool) -> Mask:
    """`mask` as Attention can have it; raises DeclinedError if that would not be the same."""
    if mask.other is not None and at.dtype(mask.value) != at.dtype(mask.other):
        raise DeclinedError("one mask is Boolean, the other is added")
    values = (mask.value,) if mask.other is None else (mask.value, mask.other)
    for value in values:
        rank = at.rank(value)
        if rank is None or not 2 <= rank <= 4:
            raise DeclinedError("a mask for Attention has two to four dimensions")
        if not assume_regular:
            _check_regular(mask, value, scores, at)
    if mask.other is None and _is_causal(mask, scores, at):
        return replace(mask, is_causal=True)
    return replace(mask, expanded=_expanded([at.dims(value) or () for value in values], scores, at))


def _expanded(masks: Sequence[Dims], scores: ir.Value, at: Rewriter) -> tuple[int, ...]:
    """What the mask must be expanded to: ONNX Runtime has a number for each query and key."""
    wanted = (at.dims(scores) or ())[-2:]
    columns = zip(*(dims[-2:] for dims in masks), strict=True)
    if all(any(d == w or d != 1 for d in c) for c, w in zip(columns, wanted, strict=True)):
        return ()
    known = tuple(dim for dim in wanted if isinstance(dim, int))
    if len(known) != 2:
        raise DeclinedError("ONNX Runtime wants a mask with all queries and keys, not one for all")
    return known


def _check_regular(mask: Mask, value: ir.Value, scores: ir.Value, at: Rewriter) -> None:
    if not at.keeps_shape(value, scores):
        raise DeclinedError("the mask may be larger than the scores; see assume_regular")
    if mask.selects:
        raise DeclinedError("a score that is NaN is hidden here; see assume_regular")
    array = at.array(value) if mask.other is None else None
    if array is None:
        shown = _is_above(value, None if mask.other is None else _SUMMABLE, at)
    else:
        keys = array if array.dtype == bool else array > _lowest(array)
        shown = bool(keys.any(axis=-1).all())
    if not shown:
        raise DeclinedError(
            "the mask may hide all keys from a query, which gives 0 in Attention and not here;"
            " see assume_regular"
        )


def _lowest(array: np.ndarray) -> float:
    """The lowest number of a floating-point type, which ONNX Runtime takes for -inf."""
    return float(ml_dtypes.finfo(array.dtype).min)  # type: ignore[no-untyped-call]


def _is_above(value: ir.Value | None, least: float | None, at: Rewriter) -> bool:
    """Whether all elements of `value` are above `least`, as constants that are moved about tell.

    Above the lowest number if `least` is None.
    """
    for _ in range(_MAX_MOVES):
        node = at.producer(value, *_MOVES, "Where")
        if node is None:
            return _all_above(at.array(value), least)
        if node.op_type == "Where":
            return all(_all_above(at.small(choice), least) for choice in node.inputs[1:])
        value = node.inputs[0]
    return False


def _all_above(array: np.ndarray | None, least: float | None) -> bool:
    if array is None or array.dtype == bool:
        return False
    return bool((array > (_lowest(array) if least is None else least)).all())


def _is_causal(mask: Mask, scores: ir.Value, at: Rewriter) -> bool:
    """Whether the constant mask hides exactly the keys after each query, as many as queries."""
    dims, shape = at.dims(mask.value), at.dims(scores)
    if not dims or not shape or len(dims) < 2 or any(dim != 1 for dim in dims[:-2]):
        return False
    if dims[-2:] != shape[-2:] or dims[-1] != dims[-2]:
        return False
    array = at.array(mask.value)
    if array is None:
        return False
    matrix = array.reshape(array.shape[-2:])
    rows, columns = np.indices(matrix.shape)
    lower = columns <= rows
    if matrix.dtype == bool:
        return bool((matrix == (lower != mask.negated)).all())
    return bool((matrix == np.where(lower, 0.0, -np.inf)).all())
