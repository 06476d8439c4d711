"""The greedy search: measure all blocks, drop the least, refit what follows, and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.data.feeds import Samples
from graphopt.ir.facts import Facts
from graphopt.progress import Progress
from graphopt.reconstruction import Refit
from graphopt_passes.eliminate_dead.elimination import eliminate_dead
from graphopt_passes.prune_blocks.blocks import Block
from graphopt_passes.prune_blocks.dropping import Array, branch_means, drop, left_by
from graphopt_passes.prune_blocks.influence import influences
from graphopt_passes.prune_blocks.refit import refit
from graphopt_passes.prune_blocks.survey import Priced, Survey
from graphopt_passes.quantize.goal import Goal
from graphopt_passes.quantize.judge import Judge

SHORTLIST = 3
"""Of the blocks that are least needed by themselves, so many are tried with a refit behind them."""
DIGITS = 1
"""Of a figure in dB that count: what is equal in them goes by how much it saves."""


@dataclass(frozen=True)
class Dropped:
    """A block that was dropped.

    Attributes:
        sqnr_db: the figure of the model afterwards.
        refit: what was refitted; None if nothing was, or if the outputs were worse for it.
    """

    block: Block
    sqnr_db: float
    refit: Refit | None


@dataclass
class Search:
    """A search for the blocks to drop from `original`, which is not changed.

    Attributes:
        samples: to fit means and weights on.
        judge: measures on other samples.
        compensate: `ls`, `bias` or `none`; see `PruneBlocks`.
        model: what is left of `original`.
        alone: the figure with one block dropped, by its branch, where it was first measured.
        dropped: what was dropped, in that order.
    """

    original: ir.Model
    survey: Survey
    samples: Samples
    judge: Judge
    compensate: str
    progress: Progress
    model: ir.Model = field(init=False)
    alone: dict[str, float] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.original

    def run(self, most: int, priced: Sequence[Priced], goal: Goal | None) -> float | None:
        """Drops up to `most` blocks, as long as the model reaches `goal`.

        Args:
            priced: the blocks of the original.

        Returns:
            The figure of the goal for the first model that does not reach it, if one did not.
        """
        macs = {p.block.branch: p.macs or 0 for p in priced}
        blocks = [p.block for p in priced]
        facts = Facts(self.original)
        while blocks and len(self.dropped) < most:
            trial, step = self._step(blocks, facts, macs)
            if goal is not None:
                figure = goal.measure(trial)
                if figure < goal.least:
                    return figure
            self.model = trial
            self.dropped.append(step)
            facts = Facts(trial)
            blocks = self.survey.blocks(trial, facts)[0]
        return None

    def _step(
        self, blocks: list[Block], facts: Facts, macs: Mapping[str, int]
    ) -> tuple[ir.Model, Dropped]:
        """The model without the block whose removal changes the outputs least."""
        fits = self.compensate == "ls"
        fills = {}
        if self.compensate != "none":
            fills = branch_means(self.model, blocks, facts, self.samples, self.progress)
        figures = influences(self.model, blocks, fills, self.judge, self.progress)
        for block, figure in zip(blocks, figures, strict=True):
            self.alone.setdefault(block.branch, figure)

        def rank(step: Dropped) -> tuple[float, int]:
            return -round(step.sqnr_db, DIGITS), -macs.get(step.block.branch, 0)

        steps = [Dropped(b, f, None) for b, f in zip(blocks, figures, strict=True)]
        steps.sort(key=rank)
        tried = [self._tried(step, fills) for step in steps[: SHORTLIST if fits else 1]]
        return min(tried, key=lambda pair: rank(pair[1]))

    def _tried(self, step: Dropped, fills: Mapping[str, Array]) -> tuple[ir.Model, Dropped]:
        """The model after `step`, refitted if that is wanted, and brings the outputs nearer."""
        fill = fills.get(step.block.branch)
        if self.compensate != "ls":
            return self._without(step.block, fill), step
        model, fitted = self._refitted(step, fill, step.block.add)
        if fill is None:
            return model, fitted
        # The biases of the layers behind it can make up for a mean just as well, and it then need
        # not be added.
        bare, lighter = self._refitted(step, None, left_by(self.model, step.block))
        nearer = round(fitted.sqnr_db, DIGITS) > round(lighter.sqnr_db, DIGITS)
        return (model, fitted) if nearer or lighter.refit is None else (bare, lighter)

    def _refitted(
        self, step: Dropped, fill: Array | None, changed: str
    ) -> tuple[ir.Model, Dropped]:
        """The model after `step`, refitted behind the value `changed` if that is any good."""
        plain = self._without(step.block, fill)
        fitted = plain.clone()
        done = refit(self.original, fitted, changed, self.samples, self.progress)
        figure = self.judge.sqnr(fitted) if done.layers else step.sqnr_db
        if not figure > step.sqnr_db:
            return plain, step
        eliminate_dead(fitted)
        return fitted, Dropped(step.block, figure, done)

    def _without(self, block: Block, fill: Array | None) -> ir.Model:
        model = drop(self.model, block, fill)
        eliminate_dead(model)
        return model
