"""Rules of operators that move positions about: join, split, pick, permute, reshape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphopt_passes.prune_channels.atoms import Labels
from graphopt_passes.prune_channels.dims import Dim
from graphopt_passes.prune_channels.labelling import Fix
from graphopt_passes.prune_channels.reshaping import regroup
from graphopt_passes.prune_channels.rules_linear import broadcast
from graphopt_passes.prune_channels.sweep import Decline, Op, Rule

if TYPE_CHECKING:
    from graphopt_passes.prune_channels.apply import Editor


def transpose(op: Op) -> None:
    x = op.labels(0)
    perm = op.node.attributes.get_ints("perm", None) or range(len(x))[::-1]
    op.emit([x[axis] for axis in perm])


def squeeze(op: Op) -> None:
    x = op.labels(0)
    axes = _axes(op, 1)
    if axes is None:
        axes = [axis for axis, labels in enumerate(x) if len(labels) == 1]
        if not all(op.is_static(0, axis) for axis in range(len(x))):
            raise Decline("its axes are not stated")
    dropped = {axis % len(x) for axis in axes}
    op.emit([labels for axis, labels in enumerate(x) if axis not in dropped])


def unsqueeze(op: Op) -> None:
    x, axes = op.labels(0), _axes(op, 1)
    if axes is None:
        raise Decline("its axes are not stated")
    rank = len(x) + len(axes)
    added = {axis % rank for axis in axes}
    rest = iter(x)
    op.emit([op.frozen(1) if axis in added else next(rest) for axis in range(rank)])


def _axes(op: Op, index: int) -> list[int] | None:
    """Axes from an attribute (before opset 13) or an input."""
    if "axes" in op.node.attributes:
        return list(op.node.attributes.get_ints("axes", ()) or ())
    if not op.has(index):
        return None
    axes = op.constants(index)
    if axes is None:
        raise Decline("its axes are computed")
    return axes


def concat(op: Op) -> None:
    operands = [op.labels(index) for index in range(len(op.node.inputs))]
    rank = len(operands[0])
    joined = op.axis("axis", 0, rank)
    op.emit(
        [
            np.concatenate([labels[axis] for labels in operands])
            if axis == joined
            else broadcast(op, [labels[axis] for labels in operands])
            for axis in range(rank)
        ]
    )


def split(op: Op) -> None:
    x = op.labels(0)
    axis = op.axis("axis", 0, len(x))
    dims = op.dims(1) if op.has(1) else None
    if op.has(1) and dims is None:
        raise Decline("its sizes are computed")
    ends = np.cumsum([op.out_shape(index)[axis] for index in range(len(op.node.outputs))])
    if ends[-1] != len(x[axis]):
        raise Decline("its sizes do not add up")
    if dims is not None and not all(dim.static for dim in dims):
        op.freeze(x[axis])
    parts = np.split(x[axis], ends[:-1])
    for index, part in enumerate(parts):
        op.emit([*x[:axis], part, *x[axis + 1 :]], index)
    if len(op.free(x[axis])):
        op.fix(_split_sizes(parts, dims))


def _split_sizes(parts: list[Labels], dims: list[Dim] | None) -> Fix:
    def change(editor: Editor, node: ir.Node) -> None:
        sizes = [editor.count(part) for part in parts]
        if dims is not None:
            editor.set_ints(node, 1, dims, sizes)
        elif sizes == [len(part) for part in parts]:
            return
        elif editor.opset < 13:
            node.attributes["split"] = ir.AttrInt64s("split", sizes)
        else:
            node.attributes.pop("num_outputs", None)
            editor.set_ints(node, 1, None, sizes)

    return change


def slice_(op: Op) -> None:
    x, rank = op.labels(0), len(op.shape(0))
    starts, ends = op.dims(1), op.dims(2)
    if starts is None or ends is None:
        raise Decline("its bounds are computed")
    axes = op.constants(3) if op.has(3) else list(range(len(starts)))
    steps = op.constants(4) if op.has(4) else [1] * len(starts)
    if axes is None:
        raise Decline("its axes are computed")
    out = list(x)
    shape = op.out_shape()
    ranges: list[tuple[Labels, int, int] | None] = []
    for position, axis in enumerate(axis % rank for axis in axes):
        span = None
        if steps is not None and steps[position] == 1:
            first, last = starts[position], ends[position]
            if first.static and last.static and op.is_static(0, axis):
                span = slice(first.value, last.value).indices(len(x[axis]))[:2]
        if span is None or span[1] - span[0] != shape[axis]:
            op.freeze(x[axis])
            out[axis] = op.frozen(shape[axis])
            ranges.append(None)
        else:
            out[axis] = x[axis][span[0] : span[1]]
            ranges.append((x[axis], *span))
    op.emit(out)
    op.fix(_slice_bounds(ranges, starts, ends))


def _slice_bounds(
    ranges: list[tuple[Labels, int, int] | None], starts: list[Dim], ends: list[Dim]
) -> Fix:
    def change(editor: Editor, node: ir.Node) -> None:
        for index, dims, pick in ((1, starts, 1), (2, ends, 2)):
            new: list[int | None] = []
            for span, dim in zip(ranges, dims, strict=True):
                if span is None or editor.count(span[0]) == len(span[0]):
                    new.append(dim.value if dim.static else None)
                else:
                    new.append(editor.count(span[0][: int(span[pick])]))
            editor.set_ints(node, index, dims, new)

    return change


def gather(op: Op) -> None:
    x, indices_shape = op.labels(0), op.shape(1)
    axis = op.axis("axis", 0, len(x))
    indices = op.constant(1)
    if indices is not None and indices.ndim == 1 and op.is_static(0, axis):
        if indices.size and not -len(x[axis]) <= indices.min() <= indices.max() < len(x[axis]):
            raise Decline("an index is out of range")
        picked = indices.astype(np.int64) % len(x[axis])
        op.emit([*x[:axis], x[axis][picked], *x[axis + 1 :]])
        op.fix(_gather_indices(x[axis], picked))
        return
    op.freeze(x[axis], f"{op} looks up positions")
    inner = [op.frozen(n) for n in indices_shape] if op.is_constant(1) else op.labels(1)
    op.emit([*x[:axis], *inner, *x[axis + 1 :]])


def _gather_indices(labels: Labels, picked: Labels) -> Fix:
    def change(editor: Editor, node: ir.Node) -> None:
        keep = editor.keep(labels)
        if keep.all():
            return
        moved = np.cumsum(keep) - 1
        values = moved[picked[keep[picked]]]
        editor.set_constant(node, 1, values)

    return change


def reshape(op: Op) -> None:
    x = op.labels(0)
    dims: list[Dim] | None = None
    if op.node.op_type == "Reshape":
        dims = op.dims(1)
        if dims is None:
            raise Decline("its shape is computed")
        if op.allows_zero() and any(dim.value == 0 for dim in dims):
            raise Decline("it makes an axis of no positions")
    out = op.out_shape()
    fixed = [dims is None or dims[axis].static for axis in range(len(out))]
    labels = regroup(op, x, out, fixed)
    op.emit(labels)
    if dims is not None:
        symbols = () if op.allows_zero() else op.symbols(0)
        numbers = [isinstance(symbol, int) for symbol in op.out_symbols()]
        op.fix(_new_shape(x, symbols, labels, dims, numbers))


def _new_shape(
    x: list[Labels],
    symbols: tuple[int | str | None, ...],
    out: list[Labels],
    dims: list[Dim],
    numbers: list[bool],
) -> Fix:
    """Restates the shape of a Reshape; `numbers` says which axes of the output are not free."""
    free = sum(not dim.static for dim in dims)

    def change(editor: Editor, node: ir.Node) -> None:
        new: list[int | None] = []
        for axis, dim in enumerate(dims):
            if not dim.static:
                # 0 stands for the dimension of the input at the same place.
                stays = dim.symbol is not None and dim.symbol in symbols[axis : axis + 1]
                new.append(0 if stays else None)
            elif dim.value == -1:
                # If this is a number after all, -1 can stand for the one that is not.
                new.append(editor.count(out[axis]) if free == 1 and numbers[axis] else -1)
            elif dim.value == 0:
                same = editor.count(x[axis]) == editor.count(out[axis])
                new.append(0 if same else editor.count(out[axis]))
            else:
                new.append(editor.count(out[axis]))
        editor.set_ints(node, 1, dims, new, deduce=True)

    return change


def expand(op: Op) -> None:
    x, dims, out = op.labels(0), op.dims(1), op.out_shape()
    if dims is None:
        raise Decline("its shape is computed")
    old = [op.frozen(1)] * (len(out) - len(x)) + list(x)
    # A constant that is spread out has as many positions as whoever reads it wants.
    new = op.fresh if op.is_constant(0) else op.frozen
    labels = [axis if len(axis) == n else new(n) for axis, n in zip(old, out, strict=True)]
    entries = labels[len(out) - len(dims) :]
    for axis, dim in zip(entries, dims, strict=True):
        if not dim.static:
            op.freeze(axis)
    op.emit(labels)
    symbols = ((1,) * (len(out) - len(x)) + op.symbols(0))[len(out) - len(dims) :]
    op.fix(_expanded(entries, symbols, dims))


def _expanded(entries: list[Labels], symbols: tuple[int | str | None, ...], dims: list[Dim]) -> Fix:
    def change(editor: Editor, node: ir.Node) -> None:
        new: list[int | None] = []
        for axis, symbol, dim in zip(entries, symbols, dims, strict=True):
            if not dim.static:
                # 1 leaves a dimension as it is.
                new.append(1 if dim.symbol is not None and dim.symbol == symbol else None)
            else:
                new.append(1 if dim.value == 1 else editor.count(axis))
        editor.set_ints(node, 1, dims, new)

    return change


def constant_of_shape(op: Op) -> None:
    """Zeros as states of a recurrent layer, say: any axis of a known length may be cut."""
    dims = op.dims(0)
    if dims is None:
        raise Decline("its shape is computed")
    labels = [
        op.fresh(n) if dim.static else op.frozen(n)
        for n, dim in zip(op.out_shape(), dims, strict=True)
    ]
    op.emit(labels)
    op.rewrite(0, dims, labels)


def tile(op: Op) -> None:
    x, repeats = op.labels(0), op.constants(1)
    if repeats is None or len(repeats) != len(x):
        raise Decline("its repeats are computed")
    op.emit([np.tile(axis, n) if n != 1 else axis for axis, n in zip(x, repeats, strict=True)])


def depth_to_space(op: Op) -> None:
    x, block = op.labels(0), op.node.attributes.get_int("blocksize", 1)
    crd = op.node.attributes.get_string("mode", "DCR") == "CRD"
    channels = len(x[1]) // block**2
    rows = x[1].reshape(channels, -1) if crd else x[1].reshape(-1, channels).T
    for row in rows:
        op.tie_all(row)
    _block_spatial(op, x, rows[:, 0])


def space_to_depth(op: Op) -> None:
    x, block = op.labels(0), op.node.attributes.get_int("blocksize", 1)
    _block_spatial(op, x, np.tile(x[1], block**2))


def _block_spatial(op: Op, x: list[Labels], channels: Labels) -> None:
    for axis in x[2:]:
        op.freeze(axis)
    op.emit([x[0], channels, *(op.frozen(n) for n in op.out_shape()[2:])])


RULES: dict[str, Rule] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": reshape,
    "Gather": gather,
    "Reshape": reshape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
