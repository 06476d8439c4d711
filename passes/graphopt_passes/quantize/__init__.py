"""`quantize`: QuantizeLinear and DequantizeLinear where the target computes in 8 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.pipeline.base import Effect, Need, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantizes data and weights of Conv, Gemm and MatMul after training, by the target's rules.

    Weights become int8 initializers with a scale for each output channel; data gets one scale for
    each tensor, from the calibration samples. All that the target would not compute in integers
    stays float: for TensorRT also biases, and what a layer gives. ONNX Runtime on a CPU wants both
    in integers, and computes additions and pooling between layers in integers too. An opset that
    lacks the operators or their types is raised; for a CPU also for Gelu behind a Conv, and what
    stays float is written as its kernels want it (`keep-blocked`). A model that is quantized in
    part keeps its pairs as they are and gets those that are missing.

    Attributes:
        format: what data becomes: int8, symmetric, for TensorRT; uint8 with a zero point for ONNX
            Runtime on a CPU; fp8 (data and weights, E4M3) for SM89 and later; int16, in which
            nothing is computed, to see what 8 bits of data cost. By default the target's own.
        method: how the range of a tensor is chosen: `mse` for the least expected squared error,
            `minmax` to clip nothing, `percentile` to clip what is beyond `percent`, `entropy` for
            the least Kullback-Leibler divergence, `auto` for the one of these with the least error.
            The range of a file that `--ranges` names goes before.
        percent: how much of a tensor's values `percentile` keeps, in per cent; 99.99 if not given.
        samples: how many calibration samples to use, at most; none for all.
        exclude: names of nodes, patterns such as `/head/*`, or operators such as `Gemm`, that stay
            float. Names are those of the model as it is given.
        include: the same, for those that alone are quantized; all if there are none.
        islands: quantize layers too that the target's rules leave float: those that stand alone
            between float nodes and compute too little to be worth it, and on a CPU those that, with
            what is around them, take longer in integers, by an estimate for a batch of 1.
        reduce_range: use 7 of the 8 bits of weights, for x86 processors without VNNI, whose 8-bit
            kernels saturate.
        tune_ranges: choose the scale of each tensor by its effect on the layers behind it.
        round_weights: refit the weights of each layer to what it reads once quantized, and round
            them so that its outputs change least.
        correct_bias: take the mean error of each channel out by its bias. Of these three, each
            step is kept only where it helps on a part of the samples that is held out; with fewer
            than 8 samples, or random ones, none is taken.
        canonicalize: simplify and fuse the model first (`lossless`), if it is not quantized in
            part: what is constant becomes a weight, and BatchNormalization part of its Conv.
        equalize: rescale channels between layers, where that helps on calibration samples that
            were held out; see `equalize`.
        max_drop: leave layers in float, as few as possible, so that the score of the evaluation
            falls by so much at most, in its unit (top1: points).
        min_sqnr: the same, so that the outputs keep a signal-to-noise ratio of so many dB against
            the float model. It is measured on a quarter of the samples, which calibrate nothing.
        sensitivity: measure the signal-to-noise ratio with each layer alone quantized, for the
            report. The two options above do so too.
    """

    name: ClassVar[str] = "quantize"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[tuple[Need, ...]] = (Need.RANGES,)

    format: Literal["int8", "uint8", "int16", "fp8"] | None = None
    method: Literal["mse", "minmax", "percentile", "entropy", "auto"] = "mse"
    percent: float | None = None
    samples: int | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    islands: bool = False
    reduce_range: bool = False
    tune_ranges: bool = True
    round_weights: bool = True
    correct_bias: bool = True
    canonicalize: bool = True
    equalize: bool = True
    max_drop: float | None = None
    min_sqnr: float | None = None
    sensitivity: bool = False

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError("samples must be at least 1")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise ValueError("percent must be above 0 and at most 100")
        if self.percent is not None and self.method not in ("percentile", "auto"):
            raise ValueError(f"percent is for method=percentile or auto, not {self.method}")
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise ValueError("max_drop must be a number of at least 0")
        if self.min_sqnr is not None and not math.isfinite(self.min_sqnr):
            raise ValueError("min_sqnr must be a number")
        if self.max_drop is not None and self.min_sqnr is not None:
            raise ValueError("max_drop and min_sqnr exclude each other; give one of them")

    def required(self) -> tuple[Need, ...]:
        if self.max_drop is not None:
            return (Need.CALIBRATION, Need.EVALUATION)
        measures = self.min_sqnr is not None or self.sensitivity
        return (Need.CALIBRATION,) if measures else self.needs

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.quantize.implementation import run

        return run(self, model, context)
