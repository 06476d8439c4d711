"""Both models run side by side over the samples: what a layer reads, and what it should give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.data.feeds import Feed, InputSpec, Samples, batches, input_specs
from graphopt.data.parts import split
from graphopt.ir import constant_tensor, reads
from graphopt.reconstruction.evidence import Evidence
from graphopt.reconstruction.moments import Moments
from graphopt.reconstruction.stream import Stream
from graphopt.runtime.session import Session
from graphopt.runtime.tap import require_finite, tapped

Array: TypeAlias = "NDArray[Any]"

HELD_BYTES = 256 << 20
"""What each of the two models may hold in memory between layers."""
BATCH, BATCH_BYTES = 32, 64 << 20
"""Samples of a run, and what they may hold between two layers, at most."""
MAX_INPUTS = 2304
"""With more inputs per group only the bias is corrected: the Gram matrix is too large."""
MAX_ROWS, MIN_ROWS, ROWS_PER_INPUT = 16_384, 8192, 10
"""How many rows (positions of all samples) a layer is fitted on."""
HELD_OUT_ROWS, HELD_OUT_BYTES = 4096, 64 << 20
"""How many rows a layer is judged by, at most, and what they may take."""


class Layer(Protocol):
    """A layer as a linear problem."""

    @property
    def node(self) -> ir.Node: ...

    @property
    def data(self) -> str:
        """The name of what it reads."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, inputs of a group, outputs of a group."""

    def row_count(self, y: Array, /) -> int:
        """How many rows an output of the layer has."""

    def rows(self, x: Array, y: Array, rows: Array, /) -> tuple[Array, Array]:
        """X [groups, rows, inputs] and Y [groups, rows, outputs] in some rows of the output `y`."""


class SideBySide:
    """The model `reference` and a changed copy of it, whose weights may change ahead.

    Attributes:
        runs: for each batch, whether it is held out.
        streams: of the reference and of the copy.
        batch: samples of a batch.
    """

    def __init__(
        self, reference: ir.Model, model: ir.Model, samples: Samples, limit: int | None
    ) -> None:
        """Starts before the first node.

        Raises:
            ValueError: if there are too few samples to hold some out, or too few fit in memory.
        """
        specs = input_specs(reference)
        first = next(iter(samples), None)
        size = 1 if first is None else _widest(reference, first, specs)
        fitting = HELD_BYTES // size
        parts = split(samples, fitting if limit is None else min(limit, fitting))
        if parts is None:
            raise ValueError("too few samples")
        batch = max(1, min(BATCH, BATCH_BYTES // size))
        self._parts, self._specs, self.batch = parts, specs, batch
        self.runs = [part is parts[1] for part in parts for _ in batches(part, specs, batch)]
        self.streams = [Stream(m, self._feeds, budget=2 * HELD_BYTES) for m in (reference, model)]
        self.streams[0].pass_to(reference.graph[0])

    def _feeds(self) -> Iterator[Feed]:
        for part in self._parts:
            yield from (feed for feed, _ in batches(part, self._specs, self.batch))

    def held_out_feeds(self) -> Iterator[Feed]:
        yield from (feed for feed, _ in batches(self._parts[1], self._specs, self.batch))

    def evidence(self, layer: Layer, twin: ir.Node, number: int) -> Evidence:
        """What is to be known of `layer`, which is ahead.

        Args:
            twin: the node of the reference that it was.
            number: decides which rows are drawn.

        Raises:
            NotFiniteError: if what it reads or gives is NaN or infinite somewhere; other layers
                can be asked for then.
        """
        name = str(twin.outputs[0].name)
        groups, inputs, outputs = layer.shape
        evidence = Evidence(Moments(groups, inputs, outputs, full=inputs <= MAX_INPUTS))
        to_fit = min(MAX_ROWS, max(MIN_ROWS, ROWS_PER_INPUT * inputs))
        to_judge = min(HELD_OUT_ROWS, HELD_OUT_BYTES // (8 * groups * (inputs + outputs)))
        quotas = [to_fit // self.runs.count(False), to_judge // self.runs.count(True)]
        pairs = zip(
            self.streams[1].values(layer.node, layer.data, after=False),
            self.streams[0].values(twin, name, after=True),
            self.runs,
            strict=True,
        )
        for run, (x, y, held_out) in enumerate(pairs):
            require_finite(layer.data, x)
            require_finite(name, y)
            total, quota = layer.row_count(y), max(1, quotas[held_out])
            rows = np.arange(total)
            if total > quota:
                generator = np.random.default_rng((number, run))
                rows = np.sort(generator.choice(total, quota, replace=False))
            taken, given = layer.rows(x, y, rows)
            if held_out:
                evidence.x.append(taken)
                evidence.y.append(given)
            else:
                evidence.fit.add(taken, given)
        return evidence


def _widest(model: ir.Model, feed: Feed, specs: tuple[InputSpec, ...]) -> int:
    """The most bytes that are computed before some node of `model` and read behind it."""
    names = [
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.name and isinstance(value.type, ir.TensorType) and constant_tensor(value) is None
    ]
    session = Session(tapped(model, names))
    static = next((s.static_batch for s in specs if s.static_batch is not None), 1)
    full = {name: np.repeat(a, static, 0) if static > 1 else a for name, a in feed.items()}
    sizes = session.run({name: full[name] for name in session.inputs})
    last = {
        str(value.name): position
        for position, node in enumerate(model.graph)
        for value in reads(node)
    }
    change: dict[int, int] = {}
    for position, node in enumerate(model.graph):
        for value in node.outputs:
            array = sizes.get(str(value.name))
            if isinstance(array, np.ndarray) and str(value.name) in last:
                change[position] = change.get(position, 0) + array.nbytes
                end = last[str(value.name)]
                change[end] = change.get(end, 0) - array.nbytes
    live = np.cumsum([change[position] for position in sorted(change)])
    inputs = sum(array.nbytes for array in feed.values())
    return max(1, inputs, int(live.max(initial=1)) // static)
