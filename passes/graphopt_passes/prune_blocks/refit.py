"""The layers behind a dropped block, refitted by least squares.

Layer by layer, in the order of the graph, towards the original network (He, Zhang and Sun 2017,
"Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1): a layer gets the weights
with which it gives, on what the changed network feeds it, what it should; see `targets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples, batches, input_specs
from graphopt.ir import Names, is_standard, label
from graphopt.progress import Progress
from graphopt.reconstruction import Linear, Moments, Refit, Stream, added_behind, enough_rows
from graphopt.runtime.tap import require_finite
from graphopt_passes.prune_blocks.dropping import Array
from graphopt_passes.prune_blocks.targets import Target, target_behind

MAX_INPUTS = 4096
"""A layer with more inputs per group stays as it is: its Gram matrix is too large."""
HELD_BYTES = 512 << 20
"""What each of the two models may hold in memory between layers."""
BATCH = 16
FEWEST_RUNS = 4
HELD_OUT = 4
"""One run in so many says whether a refit is any good."""


def refit(
    original: ir.Model,
    model: ir.Model,
    changed: str,
    samples: Samples,
    progress: Progress,
) -> Refit:
    """Refits the layers of `model`, in place, that depend on its value `changed`.

    Args:
        original: what `model` was made from; values that both have go by one name.

    Raises:
        GraphoptError: if what a layer reads or gives is NaN or infinite somewhere.
    """
    result = Refit()
    specs = input_specs(original)
    count = sum(1 for _ in samples)
    size = max(1, min(BATCH, count // (2 * FEWEST_RUNS)))
    runs = sum(1 for _ in batches(samples, specs, size))
    layers = list(_layers(model, changed, result))
    if runs < FEWEST_RUNS:
        result.declined += [(linear.name, "too few samples to check it") for linear in layers]
        return result

    def feeds() -> Iterator[Feed]:
        return (feed for feed, _ in batches(samples, specs, size))

    names = Names(model)
    sides = _Sides(original, model, feeds, layers)
    for number, linear in enumerate(progress.track(layers, "refitting layers", len(layers))):
        rows = enough_rows(linear.shape[1])
        _solve(linear, sides.rows(number, max(1, rows // runs)), names, result)
    return result


def _layers(model: ir.Model, changed: str, result: Refit) -> Iterator[Linear]:
    """The layers that can be refitted of those that depend on the value `changed`."""
    reached: set[str | None] = {changed}
    for node in model.graph:
        if not any(value.name in reached for value in node.inputs if value is not None):
            continue
        reached.update(value.name for value in node.outputs)
        if is_standard(node, "Conv", "Gemm", "MatMul"):
            linear = Linear.of(node)
            if isinstance(linear, str):
                result.declined.append((label(node), linear))
            elif linear is not None and linear.shape[1] > MAX_INPUTS:
                result.declined.append((label(node), f"it has {linear.shape[1]} inputs"))
            elif linear is not None:
                yield linear


class _Sides:
    """Both models over the same samples: what a layer reads by now, and what it should give."""

    def __init__(
        self,
        original: ir.Model,
        model: ir.Model,
        feeds: Callable[[], Iterator[Feed]],
        layers: list[Linear],
    ) -> None:
        self._before = Stream(original, feeds, budget=HELD_BYTES)
        self._after = Stream(model, feeds, budget=HELD_BYTES)
        self._nodes = {str(v.name): n for n in original.graph for v in n.outputs}
        self._then, self._now = (
            {str(v.name): place for place, node in enumerate(m.graph) for v in node.outputs}
            for m in (original, model)
        )
        self._layers = layers
        self._targets = [target_behind(linear.node) for linear in layers]

    def rows(self, number: int, quota: int) -> Iterator[tuple[Array, Array]]:
        """X and Y of the layer `number` for each run: at most `quota` rows, always the same."""
        linear = self._layers[number]
        inputs = self._after.values(linear.node, linear.data, after=False)
        outputs = self._outputs(number)
        for run, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
            require_finite(linear.data, x)
            require_finite(str(linear.node.outputs[0].name), y)
            total = linear.row_count(y)
            rows = np.arange(total)
            if total > quota:
                generator = np.random.default_rng((number, run))
                rows = np.sort(generator.choice(total, quota, replace=False))
            yield linear.rows(x, y, rows)

    def _outputs(self, number: int) -> Iterator[Array]:
        """What the layer `number` should give, for each run."""
        node = self._layers[number].node
        name = str(node.outputs[0].name)
        before = self._nodes[name]
        shift = added_behind(before) - added_behind(node)
        outputs = self._before.values(before, name, after=True)
        target = self._target(number)
        if target is None:
            yield from (output + shift for output in outputs)
            return
        goals = self._before.values(self._nodes[target.goal], target.goal, after=True)
        others = self._after.values(node, target.other, after=False)
        for output, goal, other in zip(outputs, goals, others, strict=True):
            wanted = target.output(goal, other)
            # A sum of another size repeats the output of the layer along an axis.
            fits = wanted.size == output.size
            yield wanted.reshape(output.shape) if fits else output + shift

    def _target(self, number: int) -> Target | None:
        """The target of the layer `number`, if all of it is there in time: the other operand before
        the layer runs, the goal before the next layer does."""
        target = self._targets[number]
        if target is None:
            return None
        name = str(self._layers[number].node.outputs[0].name)
        if self._now.get(target.other, -1) >= self._now[name]:
            return None
        following = self._layers[number + 1 : number + 2]
        nexts = [self._then[str(linear.node.outputs[0].name)] for linear in following]
        return None if any(place <= self._then[target.goal] for place in nexts) else target


def _solve(
    linear: Linear, rows: Iterator[tuple[Array, Array]], names: Names, result: Refit
) -> None:
    fit, held_out = (Moments(*linear.shape) for _ in range(2))
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
    linear.write(names, new, fit.bias(new) if linear.centred else bias)
    scale = max(float(held_out.yy.sum()), 1e-30)
    one, other = (math.sqrt(max(error, 0.0) / scale) for error in (before, after))
    result.layers.append((linear.name, one, other))
