"""Operators that only move elements, evaluated in numpy: exact for every type, and no session."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts.data_rules import sliced

Arrays: TypeAlias = "Sequence[np.ndarray | None]"


class _UnclearError(Exception):
    """The node is not one that this page evaluates: left to ONNX Runtime."""


def move(node: ir.Node, inputs: Arrays, opset: int) -> np.ndarray | None:
    """The one output of `node`, if it is an operator of MOVES in a form that is understood.

    Args:
        inputs: its inputs; None for those that are left out.
        opset: the version of the default domain.
    """
    rule = MOVES.get(node.op_type)
    if rule is None or len(node.outputs) != 1:
        return None
    try:
        return np.asarray(rule(_Move(node, inputs, opset)), order="C")
    except _UnclearError:
        return None


class _Move:
    def __init__(self, node: ir.Node, inputs: Arrays, opset: int) -> None:
        self.node = node
        self.inputs = inputs
        self.opset = opset

    @property
    def data(self) -> np.ndarray:
        return self.input(0)

    def input(self, index: int) -> np.ndarray:
        array = self.inputs[index] if index < len(self.inputs) else None
        if array is None:
            raise _UnclearError
        return array

    def ints(self, index: int, attribute: str, since: int) -> list[int] | None:
        """A list of integers that became input `index` in opset `since`; None if left out."""
        if self.opset < since:
            given = self.node.attributes.get_ints(attribute)
            return None if given is None else list(given)
        array = self.inputs[index] if index < len(self.inputs) else None
        return None if array is None else [int(x) for x in array.reshape(-1)]

    def axis(self, default: int, rank: int) -> int:
        axis: int = self.node.attributes.get_int("axis", default)
        if not -rank <= axis < rank:
            raise _UnclearError
        return axis % rank

    def reshaped(self, shape: Sequence[int]) -> np.ndarray:
        if math.prod(shape) != self.data.size:
            raise _UnclearError
        return self.data.reshape(tuple(shape))


def _transpose(op: _Move) -> np.ndarray:
    order = op.node.attributes.get_ints("perm", tuple(reversed(range(op.data.ndim))))
    if sorted(order) != list(range(op.data.ndim)):
        raise _UnclearError
    moved: np.ndarray = op.data.transpose(tuple(order))
    return moved


def _reshape(op: _Move) -> np.ndarray:
    if op.opset < 5:
        raise _UnclearError
    target = [int(x) for x in op.input(1).reshape(-1)]
    if not op.node.attributes.get_int("allowzero", 0):
        for axis, dim in enumerate(target):
            if dim == 0:
                if axis >= op.data.ndim:
                    raise _UnclearError
                target[axis] = op.data.shape[axis]
    if target.count(-1) == 1:
        rest = -math.prod(target)
        if rest == 0 or op.data.size % rest:
            raise _UnclearError
        target[target.index(-1)] = op.data.size // rest
    if any(dim < 0 for dim in target):
        raise _UnclearError
    return op.reshaped(target)


def _flatten(op: _Move) -> np.ndarray:
    axis: int = op.node.attributes.get_int("axis", 1)
    if not -op.data.ndim <= axis <= op.data.ndim:
        raise _UnclearError
    shape = op.data.shape
    return op.reshaped((math.prod(shape[:axis]), math.prod(shape[axis:])))


def _squeeze(op: _Move) -> np.ndarray:
    axes, shape = op.ints(1, "axes", 13), op.data.shape
    if axes is None:
        return op.reshaped([dim for dim in shape if dim != 1])
    if not all(-len(shape) <= axis < len(shape) and shape[axis] == 1 for axis in axes):
        raise _UnclearError
    gone = {axis % len(shape) for axis in axes}
    return op.reshaped([dim for axis, dim in enumerate(shape) if axis not in gone])


def _unsqueeze(op: _Move) -> np.ndarray:
    axes = op.ints(1, "axes", 13)
    rank = op.data.ndim + len(axes or ())
    if axes is None or not all(-rank <= axis < rank for axis in axes):
        raise _UnclearError
    new = {axis % rank for axis in axes}
    if len(new) != len(axes):
        raise _UnclearError
    rest = iter(op.data.shape)
    return op.reshaped([1 if axis in new else next(rest) for axis in range(rank)])


def _slice(op: _Move) -> np.ndarray:
    starts, ends = op.ints(1, "starts", 10), op.ints(2, "ends", 10)
    axes = op.ints(3, "axes", 10)
    steps = op.ints(4, "steps", 10) if op.opset >= 10 else None
    if starts is None or ends is None:
        raise _UnclearError
    rank = op.data.ndim
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise _UnclearError
    if not all(-rank <= axis < rank for axis in axes):
        raise _UnclearError
    result = op.data
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen = sliced(op.data.shape[axis], start, end, step)
        if chosen is None:
            raise _UnclearError
        result = result.take(np.arange(chosen.start, chosen.stop, chosen.step), axis)
    return result


def _gather(op: _Move) -> np.ndarray:
    axis, indices = op.axis(0, op.data.ndim), op.input(1)
    count = op.data.shape[axis]
    if indices.size and not (-count <= indices.min() and indices.max() < count):
        raise _UnclearError
    return op.data.take(np.where(indices < 0, indices + count, indices), axis)


def _concat(op: _Move) -> np.ndarray:
    arrays = [op.input(index) for index in range(len(op.inputs))]
    if op.opset < 4 or len({(a.ndim, a.dtype) for a in arrays}) != 1 or not arrays[0].ndim:
        raise _UnclearError
    axis = op.axis(0, arrays[0].ndim)
    if len({a.shape[:axis] + a.shape[axis + 1 :] for a in arrays}) != 1:
        raise _UnclearError
    return np.concatenate(arrays, axis)


def _expand(op: _Move) -> np.ndarray:
    shape = [int(x) for x in op.input(1).reshape(-1)]
    rank = max(len(shape), op.data.ndim)
    pairs = zip(
        [1] * (rank - len(shape)) + shape,
        [1] * (rank - op.data.ndim) + list(op.data.shape),
        strict=True,
    )
    target = []
    for wanted, given in pairs:
        if wanted < 0 or (wanted != given and 1 not in (wanted, given)):
            raise _UnclearError
        target.append(given if wanted == 1 else wanted)
    return np.broadcast_to(op.data, target)


MOVES: Mapping[str, Callable[[_Move], np.ndarray]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda op: op.data,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
