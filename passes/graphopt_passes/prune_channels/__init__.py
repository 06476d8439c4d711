"""prune-channels: cut whole channels out of a network, and make up for them without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

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


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Cuts a share of the channels of each dependency group; fewer MACs and parameters.

    A group is a set of channels that can be cut together with all that depends on them: through
    convolutions, products of matrices, norms, residual sums, concatenations, reshapes. Inputs,
    outputs and whatever touches an operator that the pass does not know stay as they are.

    Attributes:
        ratio: the share of the channels of each group to cut, above 0 and below 1.
        score: which channels go. `activation`: those that carry the least energy into the layers
            that read them, measured on calibration data. `l1`: those with the smallest weights.
        compensate: what is done, on calibration data, so that each layer gives what it gave before.
            `ls`: its weights are refitted by least squares. `scale-shift`: each of its output
            channels gets the mean and the variance that it had, as when BatchNorms are measured
            anew. `bias`: each gets the mean that it had. `none`: little accuracy is left. With any
            but `none`, the heads of attention are first turned so that their last channels matter
            least.
        align: what is left of a group is rounded up to a multiple of this; none means what the
            target prefers for fp16, or else fp32: 8 on TensorRT and on CPUs, 1 on `generic`.
            Tensor cores prefer 16 for int8, but TensorRT pads to that itself, and small nets would
            lose most of the cut.
        exclude: names or globs of nodes whose output channels all stay.
        samples: how many calibration samples are used, at most.
    """

    ratio: float = 0.3
    score: Literal["activation", "l1"] = "activation"
    compensate: Literal["ls", "scale-shift", "bias", "none"] = "ls"
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
        if self.score not in ("activation", "l1"):
            raise ValueError(f"score must be activation or l1, not {self.score}")
        ways = ("ls", "scale-shift", "bias", "none")
        if self.compensate not in ways:
            raise ValueError(f"compensate must be one of {', '.join(ways)}, not {self.compensate}")
        if self.align is not None and self.align < 1:
            raise ValueError(f"align must be at least 1, not {self.align}")
        if self.samples < 8:
            raise ValueError(f"samples must be at least 8, not {self.samples}")

    def required(self) -> tuple[Need, ...]:
        """Calibration data, unless `{score=l1,compensate=none}`."""
        return (
            (Need.CALIBRATION,) if self.compensate != "none" or self.score == "activation" else ()
        )

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Prunes a copy of `model`, which itself stays as it is.

        Raises:
            GraphoptError: without the calibration data that the options need, if a free dimension
                has no size to analyse the model at, or if the pruned model is not what it should
                be (an internal error; the message names the group).
        """
        from graphopt_passes.prune_channels.run import prune

        return prune(self, model, context)
