"""Rules of operators with weights: convolutions, products of matrices, norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from graphopt.ir import label
from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.labelling import Fix, Layer
from graphopt_passes.prune_channels.sweep import Decline, Op, Rule

if TYPE_CHECKING:
    from graphopt_passes.prune_channels.apply import Editor


def conv(op: Op) -> None:
    x, w = op.labels(0), op.labels(1)
    channels, outputs, groups = len(x[1]), len(w[0]), op.node.attributes.get_int("group", 1)
    for axis in (*x[2:], *w[2:]):
        op.freeze(axis)
    if groups == 1:
        op.tie(x[1], w[1])
        _layer(op, "Conv", 1, x[1], (1, 1), (0, w[0]))
    elif groups == channels and len(w[1]) == 1:
        op.tie(np.repeat(x[1], outputs // channels), w[0])
        _layer(op, "Conv", groups, x[1], (1, 1), (0, w[0]))
        op.fix(_group_follows(x[1]))
    else:
        blocks = np.split(x[1], groups)
        for block in blocks:
            op.tie(block, w[1])
        op.balance(np.split(w[0], groups))
        _layer(op, "Conv", groups, x[1], (1, 1), (0, w[0]))
    _bias(op, 2, w[0])
    spatial = op.out_shape()[2:]
    op.emit([x[0], w[0], *(op.frozen(n) for n in spatial)])


def conv_transpose(op: Op) -> None:
    x, w = op.labels(0), op.labels(1)
    channels, groups = len(x[1]), op.node.attributes.get_int("group", 1)
    for axis in (*x[2:], *w[2:]):
        op.freeze(axis)
    op.tie(x[1], w[0])
    if groups == 1:
        out = w[1]
        _layer(op, "ConvTranspose", 1, x[1], (1, 0), (1, out))
    elif groups == channels and len(w[1]) == 1:
        out = w[0]
        op.fix(_group_follows(x[1]))
    else:
        for axis in (w[0], w[1]):
            op.freeze(axis)
        out = op.frozen(op.out_shape()[1])
    _bias(op, 2, out)
    op.emit([x[0], out, *(op.frozen(n) for n in op.out_shape()[2:])])


def gemm(op: Op) -> None:
    left, right = op.labels(0), op.labels(1)
    turned = op.node.attributes.get_int("transA", 0), op.node.attributes.get_int("transB", 0)
    rows, inner = (left[1], left[0]) if turned[0] else (left[0], left[1])
    other, columns = (right[1], right[0]) if turned[1] else (right[0], right[1])
    op.tie(inner, other)
    x_axis = 0 if turned[0] else 1
    in_axis, out_axis = (1, 0) if turned[1] else (0, 1)
    if op.is_constant(1) and not op.is_constant(0):
        _layer(op, "Gemm", 1, inner, (x_axis, in_axis), (out_axis, columns))
    else:
        _mix_product(op, x_axis, in_axis)
    if op.has(2):
        added = op.labels(2)
        for labels, out in zip(reversed(added), (columns, rows), strict=False):
            if len(labels) > 1:
                op.tie(labels, out)
    op.emit([rows, columns])


def matmul(op: Op) -> None:
    left, right = op.labels(0), op.labels(1)
    if not left or not right:
        raise Decline("an operand is a scalar")
    op.tie(left[-1], right[-2] if len(right) > 1 else right[0])
    batch_axes = max(len(left), len(right)) - 2
    batch = []
    for position in range(batch_axes):
        axes = [
            side[len(side) - 2 - batch_axes + position]
            for side in (left, right)
            if len(side) - 2 - batch_axes + position >= 0
        ]
        batch.append(broadcast(op, axes))
    rows = [left[-2]] if len(left) > 1 else []
    columns = [right[-1]] if len(right) > 1 else []
    if op.is_constant(1) and not op.is_constant(0) and len(right) == 2:
        _layer(op, "MatMul", 1, left[-1], (len(left) - 1, 0), (1, right[-1]))
    else:
        _mix_product(op, len(left) - 1, max(len(right) - 2, 0))
    op.emit([*batch, *rows, *columns])


def broadcast(op: Op, axes: list[Labels]) -> Labels:
    """The axis that `axes` of equal length or length 1 broadcast to; the long ones are tied."""
    length = max((len(axis) for axis in axes if len(axis) != 1), default=1)
    long = [axis for axis in axes if len(axis) == length]
    if any(len(axis) not in (1, length) for axis in axes):
        raise Decline(f"axes of {sorted({len(axis) for axis in axes})} positions meet")
    for axis in long[1:]:
        op.tie(long[0], axis)
    return long[0] if long else op.frozen(1)


def batch_norm(op: Op) -> None:
    if op.node.attributes.get_int("training_mode", 0) or sum(bool(v.name) for v in _outs(op)) > 1:
        raise Decline("it is in training mode")
    x = op.labels(0)
    for index in range(1, 5):
        op.tie(x[1], op.labels(index)[0])
    op.emit(x)


def instance_norm(op: Op) -> None:
    """Over fewer positions the statistics change: of the parts of a GroupNormalization, say."""
    x = op.labels(0)
    for index in (1, 2):
        op.tie(x[1], op.labels(index)[0])
    op.mix(0, range(2, len(x)), mean=True)
    op.emit(x)


def group_norm(op: Op) -> None:
    """Each group loses the same number of channels."""
    x = op.labels(0)
    groups = op.node.attributes.get_int("num_groups", 0)
    if groups < 1 or len(x[1]) % groups:
        raise Decline(f"it has {groups} groups")
    for index in (1, 2):
        op.tie(x[1], op.labels(index)[0])
    for axis in x[2:]:
        op.freeze(axis)
    op.balance(np.split(x[1], groups))
    op.mix(0, [1], mean=True)
    op.emit(x)


def layer_norm(op: Op) -> None:
    """LayerNormalization and RMSNormalization: over fewer channels the statistics change."""
    if sum(bool(value.name) for value in _outs(op)) > 1:
        raise Decline("its statistics are read")
    x = op.labels(0)
    first = op.axis("axis", -1, len(x))
    for index in (1, 2):
        if not op.has(index):
            continue
        for labels, axis in zip(reversed(op.labels(index)), reversed(x), strict=False):
            if len(labels) > 1:
                op.tie(labels, axis)
    op.mix(0, range(first, len(x)), mean=True)
    op.emit(x)


def _outs(op: Op) -> list[ir.Value]:
    return list(op.node.outputs)


def _bias(op: Op, index: int, out: Labels) -> None:
    if op.has(index):
        op.tie(op.labels(index)[0], out)


def _layer(
    op: Op,
    kind: Literal["Conv", "ConvTranspose", "Gemm", "MatMul"],
    groups: int,
    in_labels: Labels,
    in_axes: tuple[int, int],
    out: tuple[int, Labels],
) -> None:
    if not op.is_constant(1):
        # A weight that is dequantized, say: its own axes go on, and the input has to hold zeros.
        op.mix(0, [in_axes[0]])
        return
    op.layer(Layer(op.number, label(op.node), kind, op.slot(1), groups, *in_axes, in_labels, *out))


def _mix_product(op: Op, left_axis: int, right_axis: int) -> None:
    """A product without a constant weight on the right: one side has to hold zeros."""
    if op.is_constant(0):
        op.mix(1, [right_axis])
    else:
        op.mix(0, [left_axis])


def _group_follows(channels: Labels) -> Fix:
    def change(editor: Editor, node: ir.Node) -> None:
        node.attributes["group"] = ir.AttrInt64("group", editor.count(channels))

    return change


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "RMSNormalization": layer_norm,
}
