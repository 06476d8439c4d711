"""Projections that were fused into one product, such as query, key and value, taken apart.

TensorRT-RTX 1.7 computes a product in float when its result is split, whatever stands in between;
the same products side by side it computes in int8 (measured for SM86).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import sole_use
from graphopt.pipeline.base import PassContext
from graphopt.rewriting import Rewriter, Rule, rewrite
from graphopt_passes.fuse_gemm.linear import Linear, is_row, linear_of


def take_projections_apart(model: ir.Model, context: PassContext) -> int:
    """Does so in all of `model`, in place; how many there were."""
    result = rewrite(model, context, RULES)
    if result.modified:
        context.analyses.changed(keeps_facts=True)
    return sum(result.rewrites.values())


@dataclass(frozen=True)
class Part:
    """The positions `start` to `start + size` of an axis, and the value that holds them."""

    output: ir.Value
    start: int
    size: int


@dataclass(frozen=True)
class Parts:
    """All that reads `value`: parts of it along `axis`."""

    value: ir.Value
    axis: int
    parts: list[Part]
    dropped: bool
    """Whether the parts lack the axis, as what Gather picks by a scalar does."""


@dataclass(frozen=True)
class Product:
    """x @ weight + row, any columns of which can be computed alone."""

    linear: Linear
    row: ir.Value | None
    """The bias, if a node of its own adds it."""

    def columns(self, start: int, stop: int, base: str, at: Rewriter) -> ir.Value:
        """The columns `start` to `stop`, by new nodes ahead of the product."""
        node, linear = self.linear.node, self.linear
        weight = linear.tensor.numpy()
        cut = weight[start:stop] if linear.transposed else weight[:, start:stop]
        inputs: list[ir.Value | None] = [
            linear.x,
            at.constant(np.ascontiguousarray(cut), f"{base}_weight", node),
        ]
        if linear.bias is not None:
            inputs.append(_cut_row(linear.bias, start, stop, base, node, at))
        made = at.insert(node, node.op_type, inputs, node.attributes, base=base)
        if self.row is None:
            return made
        row = _cut_row(self.row, start, stop, base, node, at)
        return at.insert(node, "Add", [made, row], base=f"{base}_add")


@dataclass(frozen=True)
class Route:
    """How a value comes from a product: reshaped and transposed, or as it is."""

    product: Product
    axis: int
    """That along which the parts lie, behind the Reshape."""
    columns: int
    """How many columns of the product make one position of that axis."""
    shape: Sequence[int] | None
    perm: Sequence[int]

    def follow(self, part: Part, dropped: bool, at: Rewriter) -> ir.Value:
        """`part`, computed alone."""
        node, base, axis = self.product.linear.node, str(part.output.name), self.axis
        start, stop = part.start * self.columns, (part.start + part.size) * self.columns
        made = self.product.columns(start, stop, base, at)
        if self.shape is not None:
            size = [] if dropped else [part.size]
            shape = [*self.shape[:axis], *size, *self.shape[axis + 1 :]]
            constant = at.constant(np.array(shape, np.int64), f"{base}_shape", node)
            made = at.insert(node, "Reshape", [made, constant], base=f"{base}_reshape")
        if self.perm:
            kept = [a for a in self.perm if not (dropped and a == axis)]
            perm = [a - (dropped and a > axis) for a in kept]
            made = at.insert(node, "Transpose", [made], {"perm": perm}, base=f"{base}_transpose")
        return made


def take_apart(node: ir.Node, at: Rewriter) -> bool:
    """Product -> (Reshape) -> (Transpose) -> Split or Gathers -> a product for each part."""
    found = _split(node, at) if node.op_type == "Split" else _picked(node, at)
    route = None if found is None else _route(found, at)
    if found is None or route is None:
        return False
    for part in found.parts:
        if part.output.uses() or part.output.is_graph_output():
            at.replace(part.output, route.follow(part, found.dropped, at))
    return True


RULES = (Rule("take-apart", ("Split", "Gather"), take_apart),)


def _split(node: ir.Node, at: Rewriter) -> Parts | None:
    """What a Split makes, if nothing else reads its input."""
    value = node.inputs[0]
    rank, dims = at.rank(value), at.dims(value)
    if value is None or not rank or dims is None or sole_use(value) is not node:
        return None
    axis = node.attributes.get_int("axis", 0) % rank
    length = dims[axis]
    sizes = at.ints(node, 1, "split", 13)
    if sizes is None or not isinstance(length, int):
        return None
    if not sizes:
        if length % len(node.outputs):
            return None
        sizes = (length // len(node.outputs),) * len(node.outputs)
    starts = np.cumsum((0, *sizes[:-1])).tolist()
    parts = [Part(o, s, n) for o, s, n in zip(node.outputs, starts, sizes, strict=True)]
    return Parts(value, axis, parts, dropped=False)


def _picked(node: ir.Node, at: Rewriter) -> Parts | None:
    """What Gathers, each of a single index of one axis, pick, if nothing else reads their input."""
    value = node.inputs[0]
    rank, dims = at.rank(value), at.dims(value)
    if value is None or not rank or dims is None or value.is_graph_output():
        return None
    axis = node.attributes.get_int("axis", 0) % rank
    length = dims[axis]
    if not isinstance(length, int):
        return None
    parts = []
    for use in value.uses():
        index = at.small(use.node.inputs[1]) if at.is_op(use.node, "Gather") else None
        same = use.idx == 0 and use.node.graph is node.graph
        if index is None or index.ndim or not same:
            return None
        if use.node.attributes.get_int("axis", 0) % rank != axis:
            return None
        parts.append(Part(use.node.outputs[0], int(index) % length, 1))
    return Parts(value, axis, parts, dropped=True) if len(parts) > 1 else None


def _route(found: Parts, at: Rewriter) -> Route | None:
    value, axis = found.value, found.axis
    perm: Sequence[int] = ()
    transpose = at.producer(value, "Transpose")
    if transpose is not None:
        perm = transpose.attributes.get_ints("perm", ())
        source = transpose.inputs[0]
        if not perm or source is None or sole_use(source) is not transpose:
            return None
        value, axis = source, perm[axis]
    reshape = at.producer(value, "Reshape")
    if reshape is None:
        product = _product(value, at)
        last = axis + 1 == at.rank(value)
        return Route(product, axis, 1, None, perm) if product and last and not perm else None
    source = reshape.inputs[0]
    product = _product(source, at) if source is not None and sole_use(source) is reshape else None
    return None if product is None else _reshaped(product, reshape, axis, perm, at)


def _reshaped(
    product: Product, reshape: ir.Node, axis: int, perm: Sequence[int], at: Rewriter
) -> Route | None:
    """The route through `reshape`, if `axis` is the outermost of those that the columns become."""
    dims = at.dims(reshape.outputs[0])
    shape = at.facts[reshape.inputs[1]].ints() or _copying(reshape, axis, at)
    if dims is None or shape is None:
        return None
    if 0 in shape and reshape.attributes.get_int("allowzero", 0) == 1:
        return None
    inner = [dim for dim in dims[axis:] if isinstance(dim, int)]
    known = len(inner) == len(dims) - axis and shape[axis] > 0 and 0 not in shape[axis:]
    if not known or math.prod(inner) != product.linear.outputs:
        return None
    return Route(product, axis, math.prod(inner[1:]), shape, perm)


def _copying(reshape: ir.Node, axis: int, at: Rewriter) -> list[int] | None:
    """A constant shape for `reshape` if it only cuts the last axis up, into `axis` and on.

    The axes ahead of it may be of any size, which a Reshape copies where its shape says 0. Of one
    of them the size need not be known: the number of elements leaves no other.
    """
    before, shape = at.dims(reshape.inputs[0]), at.facts[reshape.inputs[1]].items
    if before is None or shape is None or len(before) != axis + 1:
        return None
    open_axes = [a for a in range(axis) if shape[a] not in (0, before[a])]
    inner = [size for size in shape[axis:] if isinstance(size, int)]
    if len(open_axes) > 1 or len(inner) != len(shape) - axis:
        return None
    return [0] * axis + inner


def _product(value: ir.Value, at: Rewriter) -> Product | None:
    """The product that makes `value`, for its one reader."""
    node = value.producer()
    add = at.producer(value, "Add")
    if add is None:
        linear = linear_of(node, at)
        return None if linear is None else Product(linear, None)
    for index in (0, 1):
        inner, row = add.inputs[index], add.inputs[1 - index]
        if inner is None or sole_use(inner) is not add:
            continue
        linear = linear_of(inner.producer(), at)
        if linear is not None and is_row(row, linear.outputs, at.rank(inner)):
            return Product(linear, row)
    return None


def _cut_row(
    row: ir.Value, start: int, stop: int, base: str, node: ir.Node, at: Rewriter
) -> ir.Value:
    """The columns `start` to `stop` of a bias; one number for all of them stays as it is."""
    array = at.array(row)
    if array is None or array.size == 1:
        return row
    return at.constant(np.ascontiguousarray(array[..., start:stop]), f"{base}_bias", node)
