"""`cast-precision`: the graph in fp16 or bf16, but for what those types cannot hold."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class CastPrecision(Pass):
    """Writes the graph in fp16 or bf16, and keeps in fp32 what overflows or loses too much.

    For runtimes that take the types from the model, as TensorRT does with strongly typed networks.
    With calibration samples (`--calib`) the range of every tensor is measured in fp32, so that no
    overflow hides, and the outputs are computed with every tensor rounded. Where they keep less
    than 60 dB (35 in bf16), or than `min_sqnr`, the weights of each layer are rounded together and
    not each to the nearest number, so that the layer gives what it gives in fp32 (`fit_weights`):
    they stay low, and nothing runs slower. Where that is not enough, the nodes that lose most stay
    fp32, which does run slower. By default these are few: three rounds of 2% of the nodes at most
    that do not gain 3 dB, and only if that is enough then, for where all layers lose alike much of
    the net would have to stay. Notes tell what is missed, and the part of the multiply-accumulates
    in fp32.

    Without samples the structure decides, with more caution: reductions, powers and exponentials
    stay fp32. In both cases so do the statistics of a normalization that is spelled out, arithmetic
    on indices and sizes, constants that the type cannot hold, and operators of other domains, with
    casts around them. A mask constant such as -3.4e38 becomes a number of the type where it only
    ever reaches a Softmax. Bodies of If, Loop and Scan are converted inside and keep their
    interface; functions stay as they are (put `inline` ahead).

    After `quantize`, what is in 8 bits stays so and the rest becomes `to`; unless `min_sqnr` asks
    for it nothing is left in fp32 for the sake of precision, for casts keep pairs from fusing. The
    opset is raised to 19 then, and to 22 for bf16, where operators take these types.

    Attributes:
        to: fp16 (11 bits of precision, up to 65504) or bf16 (8 bits, the range of fp32).
        io: keep the types of the model's inputs and outputs, or make them low too.
        keep: names of nodes, patterns such as `/head/*`, or operators such as `Softmax`, that stay
            fp32.
        headroom: how many times larger than on the samples a tensor may become without overflow.
        min_sqnr: the signal-to-noise ratio in dB that outputs must keep on the samples. By default
            they should keep 60 for fp16 and 35 for bf16; 50 and 30 in models that multiply data
            with data, as attentions and gates do: there the errors of both factors add up, and
            storing data in fp16 may by itself leave 57 dB. An error of 0.3 % is 50 dB.
        fit_weights: whether weights may be rounded otherwise than to the nearest. It takes samples
            that are not random; a part of them is held out, and what is no better on it, or on all
            of them, is left. Weights that are 0 stay 0.
        samples: how many calibration samples to use, at most.
    """

    name: ClassVar[str] = "cast-precision"
    stage: ClassVar[Stage] = Stage.FINALIZE
    effect: ClassVar[Effect] = Effect.LOSSY
    requires: ClassVar[tuple[Invariant, ...]] = (MinOpset(7),)

    to: Literal["fp16", "bf16"] = "fp16"
    io: Literal["keep", "low"] = "keep"
    keep: tuple[str, ...] = ()
    headroom: float = 4.0
    min_sqnr: float | None = None
    fit_weights: bool = True
    samples: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.headroom < math.inf:
            raise ValueError("headroom must be a number of at least 1")
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise ValueError("min_sqnr must be a number")
        if self.samples < 1:
            raise ValueError("samples must be at least 1")

    def required(self) -> tuple[Need, ...]:
        return () if self.min_sqnr is None else (Need.CALIBRATION,)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.cast_precision.implementation import run

        return run(self, model, context)
