"""The float model and its quantized copy side by side."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.data.feeds import Feed, Samples
from graphopt.reconstruction import SideBySide
from graphopt_passes.quantize.quantizer import key_of
from graphopt_passes.quantize.recovery.ranges import Pair, best_factor, values_ahead

TRIED, TRIED_BYTES = 128, 64 << 20
"""How many samples to fit on the scale of a tensor is chosen by, and as many held out, at most."""


class QuantizedSides(SideBySide):
    """The float model `reference` and its quantized copy `model`, which may change ahead."""

    def __init__(
        self, reference: ir.Model, model: ir.Model, samples: Samples, limit: int | None
    ) -> None:
        super().__init__(reference, model, samples, limit)
        # They stay right: only constants change from here on, no node comes, goes or moves.
        self._twins = {key_of(node): node for node in reference.graph if node.outputs}
        self._order = {node: place for place, node in enumerate(model.graph)}
        self._known = {str(v.name) for node in reference.graph for v in node.outputs}

    def twin(self, node: ir.Node) -> ir.Node | None:
        """The node of the float model that `node` was."""
        return self._twins.get(key_of(node))

    def tune(self, pair: Pair, layers: set[ir.Node]) -> tuple[float, float, float] | None:
        """See `best_factor`; None if nothing can be told. `pair` is ahead."""
        names = values_ahead(pair, layers, self._known, self._order)
        if not names or not self.streams[1].pass_to(pair.quantize):
            return None
        run = self.streams[1].ahead(names, (str(pair.scale.name),))
        wanted = self.streams[0].ahead(names)
        if run is None or wanted is None:
            return None
        targets: dict[int, Feed] = {}
        for side in (False, True):
            size = 0
            for number, is_held_out in enumerate(self.runs):
                count = sum(self.runs[n] == side for n in targets)
                if is_held_out == side and count * self.batch < TRIED and size < TRIED_BYTES:
                    targets[number] = wanted(number, {})
                    size += sum(array.nbytes for array in targets[number].values())
        held_out = [number for number in targets if self.runs[number]]
        return best_factor(run, targets, pair, held_out)
