"""prune-channels: cut whole channels out of a network, and make up for them without training."""

from __future__ import annotations

import math
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
Compensation: TypeAlias = Literal["ls", "scale-shift", "bias", "none"]
DATA_SCORES = ("activation", "obs", "taylor")
"""The scores that are measured on calibration data."""
TARGETS = ("ratio", "params", "macs", "bytes", "latency", "max_drop")
"""The options of which one says how much to cut."""


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Cuts channels out of dependency groups, to a target; fewer MACs and parameters.

    A group is a set of channels that can be cut together with all that depends on them: through
    convolutions, products of matrices, norms, residual sums, concatenations, reshapes. Inputs,
    outputs and whatever touches an operator that the pass does not know stay as they are.

    One of the options `ratio`, `params`, `macs`, `bytes`, `latency` and `max_drop` is the target.
    All but `ratio` measure, on calibration samples that nothing is fitted on, how much the outputs
    suffer from cutting each group, and take channels where the target costs the least; a fifth of
    each group stays in any case. Of MACs, channels go where that hurts least for the time it saves,
    as far as it is known how the target's kernels take channels: `generic` and `onnxruntime-cpu`,
    in multiples of 16. A target that cannot be met gives the nearest model, and fails.

    Attributes:
        ratio: the share of the channels to cut, the same for each group, above 0 and below 1; 0.3
            if there is no target.
        params: the share of the parameters to cut, below 1; from 1 on how many may be left.
        macs: the same for multiply-accumulates of one sample.
        bytes: the same for the bytes of the weights.
        latency: the share of the time of a run to save, as measured in ONNX Runtime on this
            machine, where a difference of 2% is noise.
        max_drop: cut as many MACs as leave the score of the evaluation within so much of what it
            is, in its unit (top1: points).
        rounds: cut in so many rounds, each scored and measured on the model that the one before
            has cut and refitted. On the fixtures one is as good as more.
        score: which channels of a group go: those that matter least. On calibration data:
            `activation`, the energy that they carry into the layers that read them; `obs`, the
            error that is left when they are taken away one after the other and these layers are
            refitted each time (slower, and often better on convolutions); `taylor`, how far the
            loss moves, to first order, with the model's own answers as labels. From the weights
            alone: `l1` of those that make a channel, `l2` of those that make or read it, `bn` the
            scale of its BatchNormalization, unless that is folded already. `random` is the
            control: what any other should beat.
        compensate: what is done, on calibration data, so that each layer gives what it gave before.
            `ls`: its weights are refitted by least squares. `scale-shift`: each of its output
            channels gets the mean and the variance that it had, as when BatchNorms are measured
            anew. `bias`: each gets the mean that it had. `none`: little accuracy is left. With any
            but `none`, the heads of attention are first turned so that their last channels matter
            least.
        align: what is left of a group is a multiple of this: rounded up with `ratio`, chosen so
            that all groups together meet the target with the others; none means what the target
            prefers for fp16, or else fp32: 8 on TensorRT, 16 on CPUs and `generic`, but 1 on
            `generic` with `ratio`. A group of just that many stays whole; one of fewer is cut to
            the half of it, the quarter and so on. 1 rounds nothing: more MACs can go, and a run may
            take longer for it.
            Tensor cores prefer 16 for int8, but TensorRT pads to that itself, and small nets would
            lose most of the cut.
        exclude: names of nodes, patterns such as `/head/*`, or operators such as `Gemm`, whose
            output channels all stay.
        heads: cut whole attention heads (with grouped queries: groups of keys and values) rather
            than the same dimensions of every head. To do both, run the pass twice.
        groups: only list the groups, in the details of the result; see `graphopt groups`.
        samples: how many calibration samples are used, at most.
    """

    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None
    max_drop: float | None = None
    rounds: int = 1
    score: Score = "activation"
    compensate: Compensation = "ls"
    align: int | None = None
    exclude: tuple[str, ...] = ()
    heads: bool = False
    groups: bool = False
    samples: int = 512

    name: ClassVar[str] = "prune-channels"
    stage: ClassVar[Stage] = Stage.COMPRESS
    effect: ClassVar[Effect] = Effect.LOSSY
    requires: ClassVar[tuple[Invariant, ...]] = (MinOpset(11),)

    def __post_init__(self) -> None:
        self._check_target()
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {self.rounds}")
        if self.score not in get_args(Score):
            raise ValueError(f"score must be {' or '.join(get_args(Score))}, not {self.score}")
        ways = get_args(Compensation)
        if self.compensate not in ways:
            raise ValueError(f"compensate must be {' or '.join(ways)}, not {self.compensate}")
        if self.align is not None and self.align < 1:
            raise ValueError(f"align must be at least 1, not {self.align}")
        if self.samples < 8:
            raise ValueError(f"samples must be at least 8, not {self.samples}")

    def required(self) -> tuple[Need, ...]:
        """Calibration data, unless `{score=l1,compensate=none}`, with `ratio` or no target."""
        if self.groups:
            return (Need.CALIBRATION,) if self.score in DATA_SCORES else ()
        if self.max_drop is not None:
            return (Need.CALIBRATION, Need.EVALUATION)
        if self._target() not in (None, "ratio"):
            return (Need.CALIBRATION,)
        needed = self.compensate != "none" or self.score in DATA_SCORES
        return (Need.CALIBRATION,) if needed else ()

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Prunes a copy of `model`, which itself stays as it is.

        Raises:
            GraphoptError: without the calibration data that the options need, if a free dimension
                has no size to analyse the model at, or if the pruned model is not what it should
                be (an internal error; the message names the group).
        """
        from graphopt_passes.prune_channels.run import prune

        return prune(self, model, context)

    def _target(self) -> str | None:
        """The option that is the target."""
        return next((name for name in TARGETS if getattr(self, name) is not None), None)

    def _check_target(self) -> None:
        given = [(name, getattr(self, name)) for name in TARGETS]
        given = [(name, value) for name, value in given if value is not None]
        if len(given) > 1:
            (first, _), (second, _) = given[:2]
            raise ValueError(f"{first} and {second} exclude each other; give one of them")
        for name, value in given:
            if name in ("ratio", "latency") and not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, not {value}")
            if not (0 <= value < math.inf and (value > 0 or name == "max_drop")):
                least = "at least" if name == "max_drop" else "above"
                raise ValueError(f"{name} must be a number {least} 0, not {value}")
