"""Splitting, merging, packing and repeating heads: all of it Attention can do itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir.facts import Dims, product
from graphopt.rewriting import Rewriter, Rule

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze")
_SWAP = (0, 2, 1, 3)  # (batch, sequence, heads, features) to and from (batch, heads, ...)
_UNPACK = (2, 0, 3, 1, 4)  # (batch, sequence, 3, heads, features) to (3, batch, heads, ...)


def _inputs(node: ir.Node, at: Rewriter) -> list[Dims] | None:
    """The dimensions of Q, K and V of an Attention of four, without a cache."""
    if not at.is_lone(node) or len(node.inputs) > 4 or "q_num_heads" in node.attributes:
        return None
    found = [at.dims(value) for value in node.inputs[:3]]
    shapes: list[Dims] = [dims for dims in found if dims is not None and len(dims) == 4]
    return shapes if len(shapes) == 3 else None


def _transposed(value: ir.Value | None, at: Rewriter, order: tuple[int, ...]) -> ir.Value | None:
    """What `value` is the Transpose of, if that is by `order`."""
    node = at.producer(value, "Transpose")
    found = None if node is None else tuple(node.attributes.get_ints("perm", ()))
    return node.inputs[0] if node is not None and found == order else None


@dataclass(frozen=True)
class _Merge:
    """What follows an Attention and merges the heads."""

    reshape: ir.Node
    whole: bool
    """Whether the result is (batch, sequence, heads * features)."""


def _merge(node: ir.Node, at: Rewriter, queries: Dims, values: Dims) -> _Merge | None:
    transpose = at.after(node, "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != _SWAP:
        return None
    reshape = at.after(transpose, "Reshape")
    if reshape is None or reshape.inputs[0] is not transpose.outputs[0]:
        return None
    merged = product((queries[1], values[3]))
    if at.dims(reshape.outputs[0]) == (queries[0], queries[2], merged):
        return _Merge(reshape, whole=True)
    items = at.facts[reshape.inputs[1]].items
    copies = not reshape.attributes.get_int("allowzero", 0)
    if items is None or (copies and any(x == 0 or not isinstance(x, int) for x in items[2:])):
        return None  # such a dimension is copied from the input, which will be another
    return _Merge(reshape, whole=False)


def _attend(
    node: ir.Node,
    at: Rewriter,
    merge: _Merge,
    sources: list[ir.Value | None],
    heads: tuple[int, int],
) -> None:
    """Makes the Attention `node`, with what follows it, one of three dimensions."""
    inputs = [*sources, *node.inputs[3:4]]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes |= {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
    if merge.whole:
        at.become(merge.reshape, "Attention", inputs, attributes)
    else:
        value = at.insert(merge.reshape, "Attention", inputs, attributes)
        at.set_input(merge.reshape, 0, value)


def _split_heads(node: ir.Node, at: Rewriter) -> bool:
    """Heads split off by Reshape and Transpose, and merged again -> Attention of three dims."""
    shapes = _inputs(node, at)
    merge = None if shapes is None else _merge(node, at, shapes[0], shapes[2])
    if shapes is None or merge is None:
        return False
    heads = (shapes[0][1], shapes[1][1])
    if not isinstance(heads[0], int) or not isinstance(heads[1], int) or shapes[2][1] != heads[1]:
        return False
    sources = [_unsplit(v, at, dims) for v, dims in zip(node.inputs[:3], shapes, strict=True)]
    if any(source is None for source in sources):
        return False
    _attend(node, at, merge, sources, (heads[0], heads[1]))
    return True


def _unsplit(value: ir.Value | None, at: Rewriter, dims: Dims) -> ir.Value | None:
    """What heads were split off to make `value` of `dims`. Axes of size 1 may come and go."""
    batch, heads, length, features = dims
    outer = at.producer(value, *_VIEWS)
    if heads == 1 and outer is not None:
        return _view_of(outer, at, (batch, length, features))
    transpose = at.producer(value if outer is None else outer.inputs[0], "Transpose")
    reshape = None if transpose is None else at.producer(transpose.inputs[0], "Reshape")
    middle = None if reshape is None else at.dims(reshape.outputs[0])
    if transpose is None or reshape is None or middle is None:
        return None
    if at.dims(reshape.inputs[0]) != (batch, length, product((heads, features))):
        return None
    whole = (batch, length, heads, features)
    axes = [axis for axis, dim in enumerate(middle) if dim != 1]
    wanted = [axis for axis, dim in enumerate(whole) if dim != 1]
    if [middle[axis] for axis in axes] != [whole[axis] for axis in wanted]:
        return None
    order = transpose.attributes.get_ints("perm", tuple(reversed(range(len(middle)))))
    moved = [axes.index(axis) for axis in order if axis in axes]
    swapped = [wanted.index(axis) for axis in _SWAP if axis in wanted]
    return reshape.inputs[0] if moved == swapped else None


def _view_of(node: ir.Node, at: Rewriter, dims: Dims) -> ir.Value | None:
    """What a Reshape or two make a value of, if it has `dims`."""
    for _ in range(2):
        if at.dims(node.inputs[0]) == dims:
            return node.inputs[0]
        found = at.producer(node.inputs[0], *_VIEWS)
        if found is None:
            return None
        node = found
    return None


def _packed_heads(node: ir.Node, at: Rewriter) -> bool:
    """Q, K and V taken out of one projection -> Split, and Attention of three dimensions."""
    shapes = _inputs(node, at)
    merge = None if shapes is None else _merge(node, at, shapes[0], shapes[2])
    if shapes is None or merge is None:
        return False
    batch, heads, length, features = shapes[0]
    taken = [_taken(value, at) for value in node.inputs[:3]]
    numbers = [number for _, number in taken]
    reshape = at.producer(_transposed(taken[0][0], at, _UNPACK), "Reshape")
    if reshape is None or sorted(numbers) != [0, 1, 2] or not isinstance(heads, int):
        return False
    if any(value is not taken[0][0] for value, _ in taken):
        return False
    source = reshape.inputs[0]
    width = product((3, heads, features))
    if source is None or at.dims(source) != (batch, length, width) or node.graph is None:
        return False
    if at.dims(reshape.outputs[0]) != (batch, length, 3, heads, features):
        return False
    attributes = {"axis": 2, "num_outputs": 3}
    pieces = at.insert_behind(source, node.graph, "Split", [source], attributes, outputs=3).outputs
    _attend(node, at, merge, [pieces[number] for number in numbers], (heads, heads))
    return True


def _taken(value: ir.Value | None, at: Rewriter) -> tuple[ir.Value | None, int]:
    """(of what `value` is an element along axis 0, which one); (None, -1) if of nothing."""
    node = at.producer(value, "Gather", "Squeeze")
    if node is None:
        return None, -1
    if node.op_type == "Gather":
        index = at.small(node.inputs[1])
        axis: int = node.attributes.get_int("axis", 0)
        found = index is not None and index.shape == () and axis == 0
        return (node.inputs[0], int(index)) if found and index is not None else (None, -1)
    piece, axes = node.inputs[0], at.small(node.inputs[1]) if len(node.inputs) > 1 else None
    split = at.producer(piece, "Split")
    if split is None or piece is None or axes is None or axes.tolist() != [0]:
        return None, -1
    dims, along = at.dims(piece), split.attributes.get_int("axis", 0)
    number = next(i for i, output in enumerate(split.outputs) if output is piece)
    return (split.inputs[0], number) if along == 0 and dims and dims[0] == 1 else (None, -1)


def _repeated_heads(node: ir.Node, at: Rewriter) -> bool:
    """Keys and values repeated for groups of queries -> Attention, which repeats them itself."""
    shapes = _inputs(node, at)
    if shapes is None or shapes[0][1] != shapes[1][1] or shapes[1][1] != shapes[2][1]:
        return False
    expands = [_repeating(node.inputs[i], at, shapes[i]) for i in (1, 2)]
    sources = [at.dims(expand.inputs[0]) for expand in expands if expand is not None]
    if len(sources) != 2 or not sources[0] or not sources[1] or sources[0][1] != sources[1][1]:
        return False
    inputs = [_unrepeated(expand, node, at) for expand in expands if expand is not None]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    at.become(node, "Attention", [node.inputs[0], *inputs, *node.inputs[3:]], attributes)
    return True


def _repeating(value: ir.Value | None, at: Rewriter, dims: Dims) -> ir.Node | None:
    """The Expand that repeats each head in its place, from (batch, heads, 1, ...), for `value`."""
    reshape = at.producer(value, "Reshape")
    expand = None if reshape is None else at.producer(reshape.inputs[0], "Expand")
    source = None if expand is None else at.dims(expand.inputs[0])
    repeated = None if expand is None else at.dims(expand.outputs[0])
    if source is None or repeated is None or len(source) != 5 or len(repeated) != 5:
        return None
    batch, heads, one, length, features = source
    whole = (batch, product((heads, repeated[2])), length, features)
    if one != 1 or repeated != (batch, heads, repeated[2], length, features) or dims != whole:
        return None
    return expand if isinstance(heads, int) else None


def _unrepeated(expand: ir.Node, node: ir.Node, at: Rewriter) -> ir.Value:
    """The heads that `expand` repeats, without the axis along which it does."""
    value = expand.inputs[0]
    inner = at.producer(value, "Unsqueeze", "Reshape")
    source, dims = None if inner is None else inner.inputs[0], at.dims(value) or ()
    if source is not None and at.dims(source) == (*dims[:2], *dims[3:]):
        return source
    axes = at.constant(np.array([2], np.int64), f"{node.outputs[0].name}_axes", node)
    return at.insert(node, "Squeeze", [value, axes])


RULES = (
    Rule("repeated-heads", ("Attention",), _repeated_heads),
    Rule("packed-heads", ("Attention",), _packed_heads),
    Rule("split-heads", ("Attention",), _split_heads),
)
