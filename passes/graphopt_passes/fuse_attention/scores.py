"""MatMul, scale, mask, Softmax, MatMul -> Attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_attention.masks import Mask, both, check, mask_of

_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

# Swin has two: the bias of relative positions, and what belongs to another window.
_MAX_MASKS = 2


@dataclass(frozen=True)
class _Probabilities:
    """What the Softmax gives, as the last MatMul gets it."""

    softmax: ir.Node
    precision: ir.DataType | None
    """What the scores are cast to for the Softmax."""
    guarded: bool
    """Whether NaN is replaced by 0."""


@dataclass(frozen=True)
class _Scores:
    product: ir.Node
    scale: float
    mask: Mask | None


@dataclass(frozen=True)
class ScoresToAttention:
    """The rule; see `FuseAttention` for `assume_regular`."""

    assume_regular: bool

    def __call__(self, node: ir.Node, at: Rewriter) -> bool:
        found = _probabilities(node, at)
        scores = None if found is None else _scores(found, at)
        if found is None or scores is None or at.dtype(node.inputs[1]) not in _DTYPES:
            return False
        (holder, index), scale = _unscaled(scores.product, 0, at)
        queries = holder.inputs[index]
        keys, perm, other = _keys(scores.product, at)
        scale *= scores.scale * other
        values = node.inputs[1]
        if not _fit(queries, scores.product.inputs[1], values, at):
            return False
        if scale <= 0:
            raise DeclinedError("Attention takes the square root of the scale, here not positive")
        if at.dtype(values) == ir.DataType.DOUBLE:
            raise DeclinedError("ONNX Runtime computes parts of Attention in float32")
        if found.guarded and not self.assume_regular:
            raise DeclinedError("NaN is turned to 0, which Attention does not; see assume_regular")
        mask = scores.mask
        if mask is not None:
            mask = check(mask, scores.product.outputs[0], at, self.assume_regular)
        if not at.has_operator("Attention", 23):
            raise DeclinedError(
                f"opset {at.opset} has no Attention: set-opset{{version=23}}"
                if at.opset < 23
                else "the target does not want Attention"
            )
        _become(node, at, queries, (keys, perm), mask, _attributes(found, scale))
        return True


def _probabilities(node: ir.Node, at: Rewriter) -> _Probabilities | None:
    """What makes input 0 of the last MatMul, `node`."""
    user, guarded = node, False
    if (guard := at.before(node, 0, "Where")) is not None:
        if not _is_nan_guard(guard, at):
            return None
        value, guarded = guard.inputs[2], True
        found = at.producer(value, "Softmax", "Cast")
    else:
        found = at.before(user, 0, "Softmax", "Cast")
    if found is not None and found.op_type == "Cast":
        softmax = at.before(found, 0, "Softmax")
        precision = None if softmax is None else at.dtype(softmax.outputs[0])
    else:
        softmax, precision = found, None
    if softmax is None or softmax.graph is not node.graph or at.opset < 13:
        return None
    axis: int = softmax.attributes.get_int("axis", -1)
    return _Probabilities(softmax, precision, guarded) if axis in (-1, 3) else None


def _is_nan_guard(node: ir.Node, at: Rewriter) -> bool:
    """Whether `node` is Where(IsNaN(p), 0, p), and nothing else uses p."""
    test, value = at.before(node, 0, "IsNaN"), node.inputs[2]
    if test is None or value is None or test.inputs[0] is not value:
        return False
    used_twice = len(value.uses()) == 2 and not value.is_graph_output()
    return used_twice and at.is_number(node.inputs[1], 0) and at.keeps_shape(node.inputs[1], value)


def _scores(found: _Probabilities, at: Rewriter) -> _Scores | None:
    """What makes the input of the Softmax: a product, scaled and masked."""
    user = found.softmax
    if found.precision is not None:
        cast = at.before(user, 0, "Cast")
        if cast is None or found.precision == at.dtype(cast.inputs[0]):
            return None
        user = cast
    return _masked(user, 0, at, _MAX_MASKS)


def _masked(node: ir.Node, index: int, at: Rewriter, masks: int) -> _Scores | None:
    """The scores at input `index` of `node`, with at most so many masks."""
    (holder, place), scale = _unscaled(node, index, at)
    product = at.before(holder, place, "MatMul")
    if product is not None:
        return _Scores(product, scale, None)
    masking = at.before(node, index, "Add", "Where") if masks else None
    for side in range(0 if masking is None else len(masking.inputs)):
        found = _masked(masking, side, at, masks - 1) if masking is not None else None
        if found is None or masking is None:
            continue
        mask = mask_of(masking, side, at)
        if mask is not None and found.mask is not None:
            mask = both(found.mask, mask)
        return None if mask is None else replace(found, mask=mask)
    return None


def _unscaled(node: ir.Node, index: int, at: Rewriter) -> tuple[tuple[ir.Node, int], float]:
    """Where what input `index` of `node` is a constant multiple of is an input; and the constant.

    ((node, index), 1) if it is none.
    """
    found = at.before(node, index, "Mul", "Div")
    if found is None:
        return (node, index), 1.0
    for side in (1, 0) if found.op_type == "Mul" else (1,):
        number = at.scalar(found.inputs[side])
        if number and at.keeps_shape(found.inputs[side], found.inputs[1 - side]):
            return (found, 1 - side), number if found.op_type == "Mul" else 1 / number
    return (node, index), 1.0


def _keys(product: ir.Node, at: Rewriter) -> tuple[ir.Value | None, tuple[int, ...], float]:
    """(a value, the permutation that makes the keys of it, by what they are multiplied)."""
    (holder, index), scale = _unscaled(product, 1, at)
    value = holder.inputs[index]
    transpose = at.producer(value, "Transpose")
    order = None if transpose is None else transpose.attributes.get_ints("perm", (3, 2, 1, 0))
    if transpose is None or order is None or len(order) != 4:
        return value, (0, 1, 3, 2), scale
    place, more = (transpose, 0), 1.0
    if at.before(holder, index, "Transpose") is not None:
        place, more = _unscaled(transpose, 0, at)
    return place[0].inputs[place[1]], (order[0], order[1], order[3], order[2]), scale * more


def _fit(
    queries: ir.Value | None, transposed: ir.Value | None, values: ir.Value | None, at: Rewriter
) -> bool:
    """Whether batch and heads of all three agree, or keys and values have a single head."""
    shapes = [at.dims(value) for value in (queries, transposed, values)]
    leading = [shape[:2] for shape in shapes if shape is not None and len(shape) == 4]
    if len(leading) != 3 or leading[1] != leading[2] or leading[0][0] != leading[1][0]:
        return False
    return leading[1][1] in (1, leading[0][1])


def _attributes(found: _Probabilities, scale: float) -> dict[str, float | int]:
    attributes: dict[str, float | int] = {"scale": scale}
    if found.precision is not None:
        attributes["softmax_precision"] = int(found.precision)
    return attributes


def _become(
    node: ir.Node,
    at: Rewriter,
    queries: ir.Value | None,
    keys: tuple[ir.Value | None, tuple[int, ...]],
    mask: Mask | None,
    attributes: dict[str, float | int],
) -> None:
    value, perm = keys
    if perm != (0, 1, 2, 3) and value is not None:
        value = at.compute(
            node, "Transpose", [value], {"perm": perm}, by=partial(np.transpose, axes=perm)
        )
    inputs = [queries, value, node.inputs[1]]
    if mask is not None and mask.is_causal:
        attributes["is_causal"] = 1
    elif mask is not None:
        inputs.append(_input(mask, node, at))
    at.become(node, "Attention", inputs, attributes)


def _input(mask: Mask, node: ir.Node, at: Rewriter) -> ir.Value:
    """The mask as one value, made ahead of `node`."""
    value = mask.value
    if mask.other is not None:
        value = at.compute(node, "Add", [value, mask.other], by=np.add)
    if mask.negated:
        value = at.compute(node, "Not", [value], by=np.logical_not)
    if mask.expanded:
        shape = at.constant(np.array(mask.expanded, np.int64), f"{value.name}_shape", node)
        value = at.compute(node, "Expand", [value, shape], by=_expanded)
    return value


def _expanded(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape.tolist())))
