"""`quantize`: int8 QuantizeLinear and DequantizeLinear where the target computes in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.pipeline.base import Effect, Need, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantizes data and weights of Conv, Gemm and MatMul after training, by the target's rules.

    Weights become int8 initializers with a scale for each output channel; data gets one scale for
    each tensor, from the calibration samples. Biases, and all that the target would not compute in
    integers, stay float. An opset that lacks the operators or their types is raised.

    Attributes:
        format: what the numbers become: int8, symmetric.
        method: how the range of a tensor is chosen: `mse` for the least expected squared error,
            `minmax` to clip nothing.
        samples: how many calibration samples to use, at most; none for all.
        exclude: names of nodes, patterns such as `/head/*`, or operators such as `Gemm`, that stay
            float.
        canonicalize: simplify and fuse the model first (`lossless`), if it is not quantized in
            part: what is constant becomes a weight, and BatchNormalization part of its Conv.
        equalize: rescale channels between layers, where that helps on calibration samples that
            were held out; see `equalize`.
    """

    name: ClassVar[str] = "quantize"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    effect: ClassVar[Effect] = Effect.LOSSY
    needs: ClassVar[tuple[Need, ...]] = (Need.CALIBRATION,)

    format: Literal["int8"] = "int8"
    method: Literal["minmax", "mse"] = "mse"
    samples: int | None = None
    exclude: tuple[str, ...] = ()
    canonicalize: bool = True
    equalize: bool = True

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.quantize.implementation import run

        return run(self, model, context)
