"""How much the outputs change when one block is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.data.feeds import Feed
from graphopt.ir import stretch
from graphopt.progress import Progress
from graphopt.reconstruction import Lives
from graphopt.runtime.session import Session
from graphopt_passes.prune_blocks.blocks import Block
from graphopt_passes.prune_blocks.dropping import Array, drop, node_of
from graphopt_passes.quantize.judge import Judge

HELD_BYTES = 1 << 28
"""What the values at one place of the network may take, over all samples that judge."""


def influences(
    model: ir.Model,
    blocks: Sequence[Block],
    fills: Mapping[str, Array],
    judge: Judge,
    progress: Progress,
) -> list[float]:
    """For each of `blocks`, the figure of the judge, in dB, for `model` without it.

    What is ahead of a block's sum does not change. So each run starts there, from values that are
    computed once, as long as they fit `HELD_BYTES`.

    Args:
        fills: what takes the place of branches, by their names; see `drop`.
    """
    order = {str(v.name): place for place, n in enumerate(model.graph) for v in n.outputs}
    held = _Held(model, judge)
    found: dict[str, float] = {}
    ordered = sorted(blocks, key=lambda block: order[block.add])
    for block in progress.track(ordered, "measuring blocks", len(ordered)):
        held.move(node_of(model, block.add))
        found[block.branch] = held.sqnr(drop(model, block, fills.get(block.branch)))
    return [found[block.branch] for block in blocks]


class _Held:
    """The values of a model at one place: what the nodes from there on need, and outputs so far."""

    def __init__(self, model: ir.Model, judge: Judge) -> None:
        self._model = model
        self._lives = Lives(model)
        self._judge = judge
        self._values: list[Feed] = judge.feeds

    def move(self, node: ir.Node) -> None:
        """Moves on to right before `node`, or stays where it is if that is too much to hold."""
        names = self._lives.needed(node, after=False, wanted=self._judge.outputs)
        missing = sorted(name for name in names if name not in self._values[0])
        session = self._session(self._model, missing) if missing else None
        values: list[Feed] = []
        size = 0
        for feed in self._values:
            whole = {**feed, **self._run(session, feed)}
            values.append({name: whole[name] for name in sorted(names)})
            if not all(isinstance(value, np.ndarray) for value in values[-1].values()):
                return  # a sequence cannot be fed
            size += sum(array.nbytes for array in values[-1].values())
            if size > HELD_BYTES:
                return
        self._values = values

    def sqnr(self, changed: ir.Model) -> float:
        """The figure of `changed`, which is the model but for what is ahead."""
        wanted = [name for name in self._judge.outputs if name not in self._values[0]]
        session = self._session(changed, wanted) if wanted else None
        results = ({**feed, **self._run(session, feed)} for feed in self._values)
        return self._judge.compare(results)

    def _session(self, model: ir.Model, wanted: list[str]) -> Session:
        """What computes the values `wanted` of `model` from those that are held."""
        first = self._values[0]
        types = {n: ir.TensorType(ir.DataType.from_numpy(a.dtype)) for n, a in first.items()}
        return Session(stretch(model, list(first), wanted, types))

    @staticmethod
    def _run(session: Session | None, feed: Feed) -> dict[str, Any]:
        return {} if session is None else session.run({n: feed[n] for n in session.inputs})
