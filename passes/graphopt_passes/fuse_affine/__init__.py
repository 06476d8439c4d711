"""Fold scales and shifts per channel into the convolution or matrix product beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseAffine"]


@dataclass(frozen=True)
class FuseAffine(Pass):
    """Folds scales and shifts per channel into the convolution or matrix product beside them.

    BatchNormalization, Mul, Div, Add, Sub and Neg with constants compute a * x + s per channel.
    Where such a node stands behind a Conv, ConvTranspose, Gemm, MatMul, MatMul+Add or another
    BatchNormalization, the weights become a * W and the bias a * b + s (Jacob et al. 2018, section
    3.2). Where it stands before one, a goes into the input channels of W and W s into the bias; of
    a Conv that pads with zeros, only a. A weight that comes out of a DequantizeLinear has its
    scales multiplied instead. Chains of such nodes become one or two, whatever is around them, and
    an addition of zero goes.

    Factors are worked out in float64. A node stays, and the report says why, if a constant is none
    (it is an input, or computed), runs along another axis than the channels, or is bfloat16; if
    the value between is used elsewhere too; if folded weights would overflow or vanish in their
    type; if quantized weights would need a negative scale; or if other nodes share a weight, a copy
    of which would add more than `max_growth`.
    """

    name: ClassVar[str] = "fuse-affine"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    max_growth: int = 1 << 20
    """Bytes that a copy of a weight that other nodes share may add to the model."""

    def __post_init__(self) -> None:
        if self.max_growth < 0:
            raise ValueError(f"max_growth is a number of bytes, not {self.max_growth}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_affine.rules import rules

        return rewrite(model, context, rules(self.max_growth))
