"""Compensation: each layer gives again what it gave before the cut, as well as it can.

Layer by layer, in topological order, the weights that are left are refitted so that on what the
pruned model now feeds the layer it gives what the original gave, at the channels that stay (He,
Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1, with
a ridge towards the present weights). Where what a layer gives is added to a shortcut, it also makes
up for what went wrong there (section 3.2). No labels and no gradients are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.ir import (
    Names,
    constant_array,
    constant_tensor,
    is_standard,
    label,
    reads,
    sole_use,
)
from graphopt.progress import Progress
from graphopt.reconstruction import Moments, Refit, Stream
from graphopt_passes.prune_channels.groups import Cut
from graphopt_passes.prune_channels.labelling import Labelling, Layer, Mix
from graphopt_passes.prune_channels.rows import Rows, plan_runs
from graphopt_passes.prune_channels.scores import batch_within, is_depthwise
from graphopt_passes.prune_channels.solvers import Method, choose_solver
from graphopt_passes.prune_channels.weights import LayerWeights

Array: TypeAlias = "NDArray[Any]"

MAX_INPUTS = 8192
"""A layer with more inputs per group only gets its bias refitted: its Gram matrix is too large."""
HELD_BYTES = 512 << 20
"""What each of the two models may hold in memory between layers."""
BATCH_BYTES = 512 << 20
ROUNDING = 4
"""A relative error of so many roundings of the layer's type leaves nothing to correct."""


def compensate(
    original: ir.Model,
    pruned: ir.Model,
    found: Labelling,
    cut: Cut,
    samples: Samples,
    limit: int,
    progress: Progress,
    method: Method,
) -> Refit:
    """Refits the layers of `pruned`, in place, that read something else than in `original`.

    Raises:
        GraphoptError: if what a layer reads or gives is NaN or infinite somewhere.
    """
    specs = input_specs(original)
    floats = [n for n in found.labels if found.facts.types[n].is_floating_point()]
    batch = batch_within(found, floats, BATCH_BYTES)
    batch = next((s.static_batch for s in specs if s.static_batch is not None), batch)
    runs = plan_runs(samples, specs, batch, limit)
    firsts = [found.facts.symbols.get(spec.name, ())[:1] for spec in specs]
    free = {dim for first in firsts for dim in first if isinstance(dim, str)}

    def feeds() -> Iterator[Feed]:
        return (feed for feed, _ in batches(samples, specs, batch, limit))

    streams = [Stream(model, feeds, budget=HELD_BYTES) for model in (original, pruned)]
    names, result = Names(pruned), Refit()
    old_nodes = list(original.graph)
    order = {node: number for number, node in enumerate(old_nodes)}
    new_nodes = {node.outputs[0].name: node for node in pruned.graph}
    layers = _affected(original, found, cut)
    for layer in progress.track(layers, "refitting layers", len(layers)):
        before = old_nodes[layer.node]
        if isinstance(layer, Mix):
            place = "is on the left" if layer.input else "has more than two axes"
            result.declined.append((label(before), f"its weight {place}"))
            continue
        after = new_nodes[before.outputs[0].name]
        weights = LayerWeights(after, layer)
        reason = weights.declines()
        if reason is not None:
            result.declined.append((layer.name, reason))
            continue
        rows = Rows(layer, (before, after), found, cut, runs, free)
        side = _side(before, found, order)
        places = [(1, after, str(_input(after).name)), (0, before, str(before.outputs[0].name))]
        if side is not None:
            places += [(0, before, side), (1, after, side)]
        values = [
            streams[which].values(node, name, after=which == 0) for which, node, name in places
        ]
        _refit(names, layer, weights, rows, zip(*values, strict=True), method, result)
    return result


def _affected(model: ir.Model, found: Labelling, cut: Cut) -> list[Layer | Mix]:
    """What multiplies by a constant and changes through the cut, in the order of the graph."""
    layers = {layer.node: layer for layer in found.layers}
    mixes = {mix.node: mix for mix in found.mixes}
    changed: set[str] = set()
    affected: list[Layer | Mix] = []
    for number, node in enumerate(model.graph):
        layer, mix = layers.get(number), mixes.get(number)
        hit = any(str(value.name) in changed for value in reads(node))
        if layer is not None and not is_depthwise(layer):
            hit = hit or cut.touches(layer.in_labels)
        if mix is not None:
            labels = found.labels.get(str(_input(node, mix.input).name), [])
            hit = hit or any(cut.touches(labels[axis]) for axis in mix.axes if labels)
        if hit:
            changed |= {str(value.name) for value in node.outputs}
            if layer is not None:
                affected.append(layer)
            elif mix is not None and _is_weighted(node):
                affected.append(mix)
    return affected


def _is_weighted(node: ir.Node) -> bool:
    """Whether `node` is a product with a constant."""
    constants = [v is not None and constant_tensor(v) is not None for v in node.inputs[:2]]
    return is_standard(node, "MatMul", "Gemm") and any(constants)


def _side(node: ir.Node, found: Labelling, order: Mapping[ir.Node, int]) -> str | None:
    """What the output of `node`, with its bias, is added to, if that is computed before it."""
    output = node.outputs[0]
    use = sole_use(output)
    while use is not None and is_standard(use, "Add"):
        other = _input(use, 1 if use.inputs[0] is output else 0)
        if constant_array(other) is None:
            shapes, name = found.facts.shapes, str(other.name)
            maker = other.producer()
            early = maker is None or order[maker] < order[node]
            same = name in shapes and shapes[name] == shapes[str(node.outputs[0].name)]
            return name if early and same and not other.is_initializer() else None
        output = use.outputs[0]
        use = sole_use(output)
    return None


def _refit(
    names: Names,
    layer: Layer,
    weights: LayerWeights,
    rows: Rows,
    values: Iterator[tuple[Array, ...]],
    method: Method,
    result: Refit,
) -> None:
    old, old_bias = weights.matrix(), weights.bias()
    assert old_bias is not None
    full = old.shape[1] <= MAX_INPUTS
    fit, held_out = (Moments(*old.shape, full=full) for _ in range(2))
    residual = 0.0
    for number, (x, y, *sides) in enumerate(values):
        x, y, last = rows.take(number, x, y, (sides[0], sides[1]) if sides else None)
        fit.add(x[:, ~last], y[:, ~last])
        held_out.add(x[:, last], y[:, last])
        residual += float(np.square(y[:, last] - x[:, last] @ old - old_bias[:, None]).sum())
    if full and not (held_out.rows and fit.rows):
        result.declined.append((layer.name, "there are too few samples to check a refit"))
        return
    if not full:
        fit.merge(held_out)
        weights.write(names, old, fit.bias(old))
        result.declined.append((layer.name, f"{old.shape[1]} inputs: only its bias is refitted"))
        return
    scale = max(float(held_out.yy.sum()), 1e-30)
    if math.sqrt(residual / scale) <= ROUNDING * np.finfo(weights.array.dtype).eps:
        return
    solver = choose_solver(method, fit, held_out, old, centred=weights.centred)
    error = held_out.error(*solver(fit))
    if not error < residual:
        result.declined.append((layer.name, "a refit does not lower the error"))
        return
    fit.merge(held_out)
    weights.write(names, *solver(fit))
    result.layers.append(
        (layer.name, math.sqrt(residual / scale), math.sqrt(max(error, 0) / scale))
    )


def _input(node: ir.Node, index: int = 0) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
