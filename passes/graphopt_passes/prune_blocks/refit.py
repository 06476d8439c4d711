"""The layers behind a dropped block, refitted by least squares to what they gave before.

Layer by layer, in the order of the graph, towards the original network (He, Zhang and Sun 2017,
"Channel Pruning for Accelerating Very Deep Neural Networks"): a layer gets the weights with which,
on what the changed network feeds it, it gives what it gave originally. One that ends in a residual
sum also makes up for what the other operand lacks by now, so that the sum is right (section 3.2
there, the last layer of a residual branch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.ir import is_standard, label
from graphopt.progress import Progress
from graphopt.reconstruction import Geometry, Moments, Stream, conv_rows, matrix_rows
from graphopt.runtime.tap import require_finite
from graphopt_passes.prune_blocks.dropping import Array
from graphopt_passes.prune_blocks.linear import Linear, Residual, residual_behind

MAX_ROWS = 60_000
"""Rows (positions of all samples) that one layer is fitted on, at most."""
ROWS_PER_INPUT, MIN_ROWS = 50, 8192
"""More rows than so many for each input of a layer, and than so many in all, change nothing."""
MAX_INPUTS = 4096
"""A layer with more inputs per group stays as it is: its Gram matrix is too large."""
HELD_BYTES = 512 << 20
"""What each of the two models may hold in memory between layers."""
BATCH = 16
FEWEST_BATCHES = 4
HELD_OUT = 4
"""One batch in so many says whether a refit is any good."""


@dataclass
class Refit:
    """What the refit did.

    Attributes:
        layers: name, and the relative error on held-out rows before and after.
        declined: name and reason.
    """

    layers: list[tuple[str, float, float]] = field(default_factory=list)
    declined: list[tuple[str, str]] = field(default_factory=list)


def refit(
    original: ir.Model, model: ir.Model, changed: str, samples: Samples, progress: Progress
) -> Refit:
    """Refits the layers of `model`, in place, that depend on its value `changed`.

    Args:
        original: what `model` was made from; values that both have go by one name.

    Raises:
        GraphoptError: if what a layer reads or gives is NaN or infinite somewhere.
    """
    result = Refit()
    specs = input_specs(original)
    size = _batch(samples)
    runs = sum(1 for _ in batches(samples, specs, size))
    layers = list(_layers(model, changed, result))
    if runs < FEWEST_BATCHES:
        result.declined += [(linear.name, "too few samples to check it") for linear in layers]
        return result

    def feeds() -> Iterator[Feed]:
        return (feed for feed, _ in batches(samples, specs, size))

    sides = _Sides(original, model, feeds)
    for number, linear in enumerate(progress.track(layers, "refitting layers", len(layers))):
        if linear.matrix.shape[1] > MAX_INPUTS:
            result.declined.append((linear.name, f"it has {linear.matrix.shape[1]} inputs"))
            continue
        rows = min(MAX_ROWS, max(MIN_ROWS, ROWS_PER_INPUT * linear.matrix.shape[1]))
        _solve(linear, sides.rows(linear, number, max(1, rows // runs)), result)
    return result


def _batch(samples: Samples) -> int:
    """Samples in a run: few enough that some runs can be held out."""
    count = sum(1 for _ in samples)
    return max(1, min(BATCH, count // (2 * FEWEST_BATCHES)))


def _layers(model: ir.Model, changed: str, result: Refit) -> Iterator[Linear]:
    """The layers that can be refitted of those that depend on the value `changed`."""
    reached: set[str | None] = {changed}
    for node in model.graph:
        if not any(value.name in reached for value in node.inputs if value is not None):
            continue
        reached.update(value.name for value in node.outputs)
        if is_standard(node, "Conv", "Gemm", "MatMul"):
            linear = Linear.of(model, node)
            if isinstance(linear, Linear):
                yield linear
            elif linear is not None:
                result.declined.append((label(node), linear))


class _Sides:
    """Both models over the same samples: what a layer reads by now, and what it should give."""

    def __init__(
        self, original: ir.Model, model: ir.Model, feeds: Callable[[], Iterator[Feed]]
    ) -> None:
        self._before = Stream(original, feeds, budget=HELD_BYTES)
        self._after = Stream(model, feeds, budget=HELD_BYTES)
        self._nodes = {n.outputs[0].name: n for n in original.graph if n.outputs}
        self._places = [
            {str(v.name): place for place, node in enumerate(m.graph) for v in node.outputs}
            for m in (original, model)
        ]

    def rows(self, linear: Linear, number: int, quota: int) -> Iterator[tuple[Array, Array]]:
        """X and Y of the layer for each run: at most `quota` rows, at random but always the same.

        Args:
            number: that of the layer.
        """
        name = str(linear.node.outputs[0].name)
        before = self._nodes[name]
        residual = self._residual(linear.node, before)
        read = linear.node.inputs[0]
        assert read is not None
        inputs = self._after.values(linear.node, str(read.name), after=False)
        outputs = self._before.values(before, name, after=True)
        lacking: Iterator[Array | None] = iter(lambda: None, 0)
        if residual is not None:
            lacking = residual.lacking(
                self._before.values(before, residual.original, after=True),
                self._after.values(linear.node, residual.now, after=False),
            )
        for run, (x, y, lack) in enumerate(zip(inputs, outputs, lacking, strict=False)):
            wanted = y.astype(np.float64)
            if lack is not None and np.broadcast_shapes(lack.shape, y.shape) == y.shape:
                wanted = wanted + lack
            require_finite(str(read.name), x)
            require_finite(name, wanted)
            axis = 1 if linear.is_conv else -1
            total = y.size // y.shape[axis]
            rows = np.arange(total)
            if total > quota:
                generator = np.random.default_rng((number, run))
                rows = np.sort(generator.choice(total, quota, replace=False))
            if not linear.is_conv:
                yield matrix_rows(x, wanted, rows)
                continue
            kernel = linear.array.shape[2:]
            geometry = Geometry.of(linear.node, kernel, x.shape[2:], y.shape[2:])
            yield conv_rows(x, wanted, geometry, len(linear.matrix), rows)

    def _residual(self, node: ir.Node, before: ir.Node) -> Residual | None:
        """The sum that `node` ends in, if the other operand is there before the layer runs."""
        residual = residual_behind(node, self._nodes)
        if residual is None:
            return None
        names = (residual.original, residual.now)
        ends = (before, node)
        for places, name, end in zip(self._places, names, ends, strict=True):
            if places.get(name, -1) >= places[str(end.outputs[0].name)]:
                return None
        return residual


def _solve(linear: Linear, rows: Iterator[tuple[Array, Array]], result: Refit) -> None:
    fit, held_out = (Moments(*linear.matrix.shape) for _ in range(2))
    for run, (x, y) in enumerate(rows):
        (held_out if run % HELD_OUT == HELD_OUT - 1 else fit).add(x, y)
    old, bias = linear.matrix, linear.bias
    before = held_out.error(old, bias)
    new = fit.solve(old, centred=linear.centred)
    new_bias = fit.bias(new) if linear.centred else bias
    after = held_out.error(new, new_bias)
    if not after < before:
        result.declined.append((linear.name, "a refit does not lower the error"))
        return
    fit.merge(held_out)
    new = fit.solve(old, centred=linear.centred)
    linear.write(new, fit.bias(new) if linear.centred else bias)
    scale = max(float(held_out.yy.sum()), 1e-30)
    one, other = (math.sqrt(max(error, 0.0) / scale) for error in (before, after))
    result.layers.append((linear.name, one, other))
