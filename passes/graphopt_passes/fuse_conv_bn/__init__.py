"""Fold BatchNormalization into the convolution or matrix product before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseConvBn"]


@dataclass(frozen=True)
class FuseConvBn(Pass):
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm, MatMul or MatMul+Add before it.

    With a = scale / sqrt(variance + epsilon) per channel, the weights become a * W and the bias
    a * (b - mean) + B (Jacob et al. 2018, section 3.2), computed in float64 and rounded once.

    A BatchNormalization stays, and a note says why, if it is in training mode, if a parameter is
    not constant or comes from a DequantizeLinear, if the value before it is used elsewhere too,
    if it is in a function, or if the folded weights would not fit their type.
    """

    name: ClassVar[str] = "fuse-conv-bn"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.fuse_conv_bn.fusion import fuse_conv_bn

        return fuse_conv_bn(model)
