"""prune-blocks: drop whole residual blocks, those whose removal changes the output least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.pipeline.base import Effect, Need, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PruneBlocks"]


@dataclass(frozen=True)
class PruneBlocks(Pass):
    """Drops whole residual blocks, those whose removal changes the outputs least: a shallower net.

    A residual block adds to a value something that layers compute from that same value; without
    it the value goes through as it is. In a transformer, attention and MLP are a block each. All
    blocks are measured on calibration samples that are held out, one is dropped, what follows it
    is refitted, and those that are left are measured again. Run it behind `simplify,fuse`: only
    layers whose weight is a constant are refitted.

    Attributes:
        n: how many blocks to drop; 1 if nothing else is demanded. Along with one of the next two
            options, the most.
        max_drop: drop as many as leave the score of the evaluation within so much of what it was,
            in its unit (top1: points).
        min_sqnr: drop as many as leave the outputs at a signal-to-noise ratio of so many dB
            against the model as it was.
        compensate: what makes up for a dropped block, in closed form. `bias`: its mean over the
            calibration samples takes its place. `ls`: the layers behind it are refitted by least
            squares to what they gave before, with that mean, or without where their biases make up
            for it. `none`: nothing.
        exclude: names of nodes, patterns such as `/layer4/*`, or operators; a block that one of
            them is part of stays.
        samples: how many calibration samples are used, at most; a quarter of them is held out.
    """

    n: int | None = None
    max_drop: float | None = None
    min_sqnr: float | None = None
    compensate: Literal["ls", "bias", "none"] = "ls"
    exclude: tuple[str, ...] = ()
    samples: int = 512

    name: ClassVar[str] = "prune-blocks"
    stage: ClassVar[Stage] = Stage.COMPRESS
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[tuple[Need, ...]] = (Need.CALIBRATION,)

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(f"n must be at least 1, not {self.n}")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise ValueError("max_drop must be a number of at least 0")
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise ValueError("min_sqnr must be a number")
        if self.max_drop is not None and self.min_sqnr is not None:
            raise ValueError("max_drop and min_sqnr exclude each other; give one of them")
        if self.compensate not in ("ls", "bias", "none"):
            raise ValueError(f"compensate must be ls, bias or none, not {self.compensate}")
        if self.samples < 8:
            raise ValueError(f"samples must be at least 8, not {self.samples}")

    def required(self) -> tuple[Need, ...]:
        """Calibration data; with `max_drop` an evaluation too."""
        return self.needs if self.max_drop is None else (*self.needs, Need.EVALUATION)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Drops blocks of a copy of `model`, which itself stays as it is.

        Raises:
            GraphoptError: without the data that the options need, if `exclude` names nothing, or if
                ONNX Runtime cannot run the model on the samples.
        """
        from graphopt_passes.prune_blocks.run import prune

        return prune(self, model, context)
