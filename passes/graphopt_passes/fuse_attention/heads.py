"""Splitting, merging, packing and repeating heads: all of it Attention can do itself."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir.facts import Dims, product
from graphopt.rewriting import Rewriter, Rule

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
    sources: list[ir.Value | None] = []
    for value, dims in zip(node.inputs[:3], shapes, strict=True):
        reshape = at.producer(_transposed(value, at, _SWAP), "Reshape")
        merged = (dims[0], dims[2], product((dims[1], dims[3])))
        if reshape is None or at.dims(reshape.inputs[0]) != merged:
            return False
        sources.append(reshape.inputs[0])
    _attend(node, at, merge, sources, (heads[0], heads[1]))
    return True


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
    keys, values = (_unrepeated(node.inputs[i], at, shapes[i]) for i in (1, 2))
    if keys is None or values is None:
        return False
    one, other = at.dims(keys), at.dims(values)
    if one is None or other is None or one[1] != other[1]:
        return False
    at.become(
        node,
        "Attention",
        [node.inputs[0], keys, values, *node.inputs[3:]],
        {name: attribute.value for name, attribute in node.attributes.items()},
    )
    return True


def _unrepeated(value: ir.Value | None, at: Rewriter, dims: Dims) -> ir.Value | None:
    """What Unsqueeze, Expand and Reshape make `value` of by repeating each head in its place."""
    reshape = at.producer(value, "Reshape")
    expand = None if reshape is None else at.producer(reshape.inputs[0], "Expand")
    inner = None if expand is None else at.producer(expand.inputs[0], "Unsqueeze", "Reshape")
    source = None if inner is None else at.dims(inner.inputs[0])
    if inner is None or expand is None or source is None or len(source) != 4:
        return None
    batch, heads, length, features = source
    repeated = at.dims(expand.outputs[0])
    if at.dims(expand.inputs[0]) != (batch, heads, 1, length, features) or repeated is None:
        return None
    if len(repeated) != 5 or repeated != (batch, heads, repeated[2], length, features):
        return None
    whole = (batch, product((heads, repeated[2])), length, features)
    return inner.inputs[0] if dims == whole and isinstance(heads, int) else None


RULES = (
    Rule("repeated-heads", ("Attention",), _repeated_heads),
    Rule("packed-heads", ("Attention",), _packed_heads),
    Rule("split-heads", ("Attention",), _split_heads),
)
