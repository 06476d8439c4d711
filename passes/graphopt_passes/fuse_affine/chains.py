"""Arithmetic with constants behind arithmetic with constants."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt.rewriting import DeclinedError, Rewriter
from graphopt_passes.fuse_affine.affine import ARITHMETIC, Step, require_arithmetic, step_of
from graphopt_passes.fuse_affine.scaling import cast

# A constant that is much smaller than those it is the sum of has lost their digits.
_CANCELLATION = 128

# So many steps behind a node are joined at once.
_LONGEST = 32

# Constants of zeros are looked for among those of so many elements.
_MOST_ZEROS = 1 << 16


def drop_zero(node: ir.Node, at: Rewriter) -> bool:
    """x + 0 and x - 0, where x keeps its shape."""
    step = step_of(node, at)
    if step is None or step.tensor is None or not step.is_shift:
        return False
    if (node.op_type == "Sub" and step.data == 1) or step.tensor.size > _MOST_ZEROS:
        return False
    numbers = step.tensor.numpy().reshape(-1)
    if not numbers.size or numbers[0] != 0 or numbers.any():
        return False
    if step.value is None or not at.keeps_shape(step.constant, step.value):
        return False
    return at.replace(node.outputs[0], step.value)


def join(node: ir.Node, at: Rewriter, max_growth: int) -> bool:
    """Two scales are one scale, two shifts one shift, and any three of them a scale and a shift.

    What follows `node` joins in at once, where it can: a long chain then costs no more than its
    length.
    """
    above, below = _above(node, at), _below(node, at)
    if below and len(below) + len(above) >= 3:
        try:
            return _joined([*below, *above], at, max_growth)
        except DeclinedError:
            pass  # fewer of them may do
    two = above[:2]
    if len(two) < 2 or all(step.tensor is None for step in two):
        return False  # Neg of Neg is exact, and another's
    if not _are_alike(two) and len(above) < 3:
        return False
    return _joined(two if _are_alike(two) else above, at, max_growth)


def _above(node: ir.Node, at: Rewriter) -> list[Step]:
    """`node` and up to two steps ahead of it, the last one first."""
    steps: list[Step] = []
    current: ir.Node | None = node
    while current is not None and len(steps) < 3:
        step = step_of(current, at)
        if step is None:
            break
        steps.append(step)
        current = at.before(current, step.data, *ARITHMETIC)
    return steps


def _below(node: ir.Node, at: Rewriter) -> list[Step]:
    """The steps behind `node`, the last one first; those that have a constant."""
    steps: list[Step] = []
    current = at.after(node, *ARITHMETIC)
    while current is not None and len(steps) < _LONGEST:
        step = step_of(current, at)
        if step is None or step.tensor is None:
            break
        steps.append(step)
        current = at.after(current, *ARITHMETIC)
    return steps[::-1]


def _are_alike(steps: list[Step]) -> bool:
    """Whether one node can do what they do."""
    scales = all(step.is_scale for step in steps)
    return scales or all(step.is_shift or step.tensor is None for step in steps)


def _joined(steps: list[Step], at: Rewriter, max_growth: int) -> bool:
    _require_room(steps, max_growth, at)
    if all(step.is_scale for step in steps):
        return _one_scale(steps, at)
    return _one_shift(steps, at) if _are_alike(steps) else _scale_and_shift(steps, at)


def _require_room(steps: list[Step], max_growth: int, at: Rewriter) -> None:
    """Declines where other nodes go on to use the largest constant, and it is too large to copy."""
    require_arithmetic(at)
    tensors = [step.tensor for step in steps if step.tensor is not None]
    largest = max(tensor.nbytes for tensor in tensors)
    if largest <= max_growth:
        return
    for step in steps:
        is_largest = step.tensor is not None and step.tensor.nbytes == largest
        if is_largest and at.owns(step.node, 1 - step.data):
            return
    raise DeclinedError(f"other nodes share a constant, and a copy would add {largest:,} bytes")


def _one_scale(steps: list[Step], at: Rewriter) -> bool:
    node, value = steps[0].node, steps[-1].value
    number, _ = _total(steps)
    at.become(node, "Mul", [value, _constant(number, steps, "scale", at)])
    return True


def _one_shift(steps: list[Step], at: Rewriter) -> bool:
    node, value = steps[0].node, steps[-1].value
    sign, shift = _total(steps)
    constant = _constant(shift, steps, "shift", at)
    at.become(node, *(("Add", [value, constant]) if sign > 0 else ("Sub", [constant, value])))
    return True


def _scale_and_shift(steps: list[Step], at: Rewriter) -> bool:
    node, value = steps[0].node, steps[-1].value
    scale, shift = _total(steps)
    numbers = [_data(array, steps) for array in (scale, shift)]
    factor, addend = (
        at.constant(data, f"{node.outputs[0].name}_{what}", node)
        for data, what in zip(numbers, ("scale", "shift"), strict=True)
    )
    at.become(node, "Add", [at.insert(node, "Mul", [value, factor]), addend])
    return True


def _total(steps: list[Step]) -> tuple[np.ndarray, np.ndarray]:
    """The scale and the shift of all of `steps`, the last of which comes first.

    Raises:
        DeclinedError: if the result would differ by more than rounding, or be larger.
    """
    dtype = _dtype(steps)
    scale, shift, part = np.array(1.0), np.array(0.0), 0.0
    for step in reversed(steps):
        factor, addend = step.scale(), step.shift()
        _require_moderate(factor, dtype)
        scale, shift = scale * factor, shift * factor + addend
        part = max(part * _peak(factor), _peak(addend))
    limit = max(math.prod(step.shape) for step in steps)
    if scale.size > limit or shift.size > limit:
        raise DeclinedError("the constants together would be larger")
    _require_moderate(scale, dtype)
    if part and not _peak(shift) * _CANCELLATION >= part:
        raise DeclinedError("what the constants add cancels out, and with it their rounding")
    return scale, shift


def _peak(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _require_moderate(factor: np.ndarray, dtype: np.dtype) -> None:
    """Declines factors that bring what lies between near the ends of the type."""
    bound = 2.0 ** (np.finfo(dtype).maxexp // 3)
    magnitude = np.abs(factor[factor != 0])
    if not ((magnitude < bound) & (magnitude > 1 / bound)).all():
        raise DeclinedError(f"a factor is near the limits of {dtype}")


def _dtype(steps: list[Step]) -> np.dtype:
    return next(step.tensor.dtype.numpy() for step in steps if step.tensor is not None)


def _data(exact: np.ndarray, steps: list[Step]) -> np.ndarray:
    return cast(exact, _dtype(steps))


def _constant(exact: np.ndarray, steps: list[Step], what: str, at: Rewriter) -> ir.Value:
    node = steps[0].node
    return at.constant(_data(exact, steps), f"{node.outputs[0].name}_{what}", node)
