"""How much the outputs suffer when one layer alone is quantized."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.data.feeds import Feed, input_specs
from graphopt.ir import constant_tensor, label, measure, stretch
from graphopt.progress import Progress
from graphopt.reconstruction import Lives
from graphopt.runtime.session import Session
from graphopt.runtime.tap import observed_shapes
from graphopt_passes.quantize.judge import Judge
from graphopt_passes.quantize.quantizer import Quantizer, key_of

HELD_BYTES = 1 << 28
"""What the float values at one place of the network may take, over all samples that judge."""


@dataclass(frozen=True)
class Layer:
    """A layer that can be quantized.

    Attributes:
        key: see `key_of`.
        node: its name, for people.
        macs: its multiply-accumulates for one sample; None if its shapes are not known.
        sqnr_db: the figure of the `Judge` when it alone is quantized.
    """

    key: str
    node: str
    op_type: str
    macs: int | None
    sqnr_db: float

    @property
    def noise(self) -> float:
        """The energy of its noise at the output, relative to the signal."""
        return float(10.0 ** (-self.sqnr_db / 10.0))


def measure_layers(quantizer: Quantizer, judge: Judge, progress: Progress) -> list[Layer]:
    """Measures each layer that `quantizer`, calibrated, can quantize; in the order of the graph.

    What is ahead of a layer computes in float whether or not the layer is quantized. So each run
    starts at the layer, from values that are computed once, as long as they fit `HELD_BYTES`.
    """
    nodes = {key_of(candidate.node): candidate.node for candidate in quantizer.candidates}
    keys = list(nodes)
    macs = _macs(quantizer, judge.feeds[0])
    held = _Held(quantizer.model, judge.feeds)
    layers = []
    for key in progress.track(keys, "measuring layers", len(keys)):
        others = [other for other in keys if other != key]
        sqnr = held.sqnr(quantizer.write(others).model, judge)
        node = nodes[key]
        layers.append(Layer(key, label(node), node.op_type, macs.get(node), sqnr))
    return layers


class _Held:
    """The values of the float model at one place: all that the nodes from there on need."""

    def __init__(self, model: ir.Model, feeds: list[Feed]) -> None:
        self._model = model.clone()
        self._nodes = list(self._model.graph)
        self._lives = Lives(self._model)
        self._inputs = feeds
        self._values = feeds
        self._place = 0

    def sqnr(self, changed: ir.Model, judge: Judge) -> float:
        """The figure of `changed`, the float model but for some nodes."""
        self._move(self._first_difference(changed))
        passed = {v.name for v in self._model.graph.inputs}
        passed.update(v.name for node in self._nodes[: self._place] for v in node.outputs)
        wanted = [name for name in judge.outputs if name not in passed]
        if not wanted:
            return math.inf
        if self._place == 0:
            return judge.sqnr(changed)
        session = Session(self._ahead(changed, wanted))
        results = (session.run({n: feed[n] for n in session.inputs}) for feed in self._values)
        return judge.compare(results, wanted)

    def _first_difference(self, changed: ir.Model) -> int:
        """The index of the first node that is not in `changed` with the same inputs."""
        inputs = {
            key_of(node): [value.name if value is not None else None for value in node.inputs]
            for node in changed.graph
            if node.outputs
        }
        for index, node in enumerate(self._nodes):
            if node.outputs and constant_tensor(node.outputs[0]) is None:
                own = [value.name if value is not None else None for value in node.inputs]
                if inputs.get(key_of(node)) != own:
                    return index
        return len(self._nodes)

    def _move(self, place: int) -> None:
        """Holds the values at `place`, or stays at one before it if they are too large."""
        if place < self._place:
            self._place, self._values = 0, self._inputs
        if place in (self._place, len(self._nodes)):
            return
        names = sorted(self._lives.needed(self._nodes[place], after=False))
        missing = [name for name in names if name not in self._values[0]]
        session = Session(self._ahead(self._model, missing)) if missing else None
        values: list[Feed] = []
        size = 0
        for feed in self._values:
            own = {name: feed[name] for name in session.inputs} if session else {}
            computed = session.run(own) if session else {}
            values.append({n: computed[n] if n in computed else feed[n] for n in names})
            if any(isinstance(value, list) for value in computed.values()):
                return  # a sequence cannot be fed
            size += sum(array.nbytes for array in values[-1].values())
            if size > HELD_BYTES:
                return
        self._place, self._values = place, values

    def _ahead(self, model: ir.Model, wanted: list[str]) -> ir.Model:
        """What computes the values `wanted` of `model` from those that are held."""
        named = ir.convenience.create_value_mapping(model.graph)
        for name, array in self._values[0].items():  # types that nobody has inferred
            named[name].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        return stretch(model, list(self._values[0]), wanted)


def _macs(quantizer: Quantizer, feed: Feed) -> dict[ir.Node, int | None]:
    """The multiply-accumulates of each node."""
    model = quantizer.model
    cost = measure(model)
    if cost.unknown:
        free = {spec.name for spec in input_specs(model) if spec.batched and not spec.static_batch}
        one = {name: array[:1] if name in free else array for name, array in feed.items()}
        cost = measure(model, observed_shapes(model, cost.unknown, one))
    return {node: row.macs for node, row in zip(model.graph, cost.per_node, strict=True)}
