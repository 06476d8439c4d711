"""prune-channels: cut whole channels out of a network, and make up for them without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

from graphopt.pipeline.base import (
    Effect,
    Invariant,
    MinOpset,
    Need,
    Pass,
    PassContext,
    PassResult,
    Stage,
)

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PruneChannels"]

Score: TypeAlias = Literal["activation", "bn", "l1", "l2", "obs", "random", "taylor"]
DATA_SCORES = ("activation", "obs", "taylor")
"""The scores that are measured on calibration data."""


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Cuts a share of the channels of each dependency group; fewer MACs and parameters.

    A group is a set of channels that can be cut together with all that depends on them: through
    convolutions, products of matrices, norms, residual sums, concatenations, reshapes. Inputs,
    outputs and whatever touches an operator that the pass does not know stay as they are.

    Attributes:
        ratio: the share of the channels of each group to cut, above 0 and below 1.
        score: which channels of a group go: those that matter least. On calibration data:
            `activation`, the energy that they carry into the layers that read them; `obs`, the
            error that is left when they are taken away one after the other and these layers are
            refitted each time (slower, and often better on convolutions); `taylor`, how far the
            loss moves, to first order, with the model's own answers as labels. From the weights
            alone: `l1` of those that make a channel, `l2` of those that make or read it, `bn` the
            scale of its BatchNormalization, unless that is folded already. `random` is the
            control: what any other should beat.
        compensate: refit the weights that remain by least squares on calibration data, so
            that each layer gives what it gave before. Little accuracy is left without it.
        align: what is left of a group is rounded up to a multiple of this; none means what the
            target prefers for fp16, or else fp32: 8 on TensorRT and on CPUs, 1 on `generic`.
            Tensor cores prefer 16 for int8, but TensorRT pads to that itself, and small nets would
            lose most of the cut.
        exclude: names or globs of nodes whose output channels all stay.
        samples: how many calibration samples are used, at most.
    """

    ratio: float = 0.3
    score: Score = "activation"
    compensate: bool = True
    align: int | None = None
    exclude: tuple[str, ...] = ()
    samples: int = 512

    name: ClassVar[str] = "prune-channels"
    stage: ClassVar[Stage] = Stage.COMPRESS
    effect: ClassVar[Effect] = Effect.LOSSY
    requires: ClassVar[tuple[Invariant, ...]] = (MinOpset(11),)

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio must be above 0 and below 1, not {self.ratio}")
        if self.score not in get_args(Score):
            raise ValueError(f"score must be {' or '.join(get_args(Score))}, not {self.score}")
        if self.align is not None and self.align < 1:
            raise ValueError(f"align must be at least 1, not {self.align}")
        if self.samples < 8:
            raise ValueError(f"samples must be at least 8, not {self.samples}")

    def required(self) -> tuple[Need, ...]:
        """Calibration data, unless `{score=l1,compensate=false}`."""
        return (Need.CALIBRATION,) if self.compensate or self.score in DATA_SCORES else ()

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Prunes a copy of `model`, which itself stays as it is.

        Raises:
            GraphoptError: without the calibration data that the options need, if a free dimension
                has no size to analyse the model at, or if the pruned model is not what it should
                be (an internal error; the message names the group).
        """
        from graphopt_passes.prune_channels.run import prune

        return prune(self, model, context)
