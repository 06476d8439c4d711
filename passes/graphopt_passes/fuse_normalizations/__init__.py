"""Make one normalization operator of the nodes that spell it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseNormalizations"]


@dataclass(frozen=True)
class FuseNormalizations(Pass):
    """Make one normalization operator of the nodes that spell it out.

    LayerNormalization (opset 17) and RMSNormalization (23) over the last axes,
    InstanceNormalization over the spatial axes of channels, GroupNormalization (21) from a Reshape
    into groups and back. The mean and the variance may be written in any of the ways of PyTorch,
    TensorFlow, Flax and Paddle, also in float32 between Casts in a 16-bit model. A Mul and an Add
    behind a normalization become its scale and bias if they run along the same axes. Sums of
    squares and of absolute values become ReduceSumSquare, ReduceL2 and ReduceL1.

    Left alone, with the reason in the report: axes that are not the last ones; statistics of
    double, since the operators may compute them in float32; a scale whose size is dynamic, or that
    would have to be a large tensor of ones; values in the midst that are used elsewhere; what the
    model's opset does not have yet. x / norm(x) is no LpNormalization: that has no epsilon, and
    gives 0 where this gives NaN. Sums of squares stay in 16-bit types, where they overflow
    elsewhere, and in mean(x^2) - mean(x)^2, where their rounding would be magnified.

    How exact a fused operator is, is up to the runtime. ONNX Runtime computes GroupNormalization
    as mean(x^2) - mean(x)^2, as ONNX defines it: where the mean of a group is more than ten times
    its deviation, the difference shows in float32.

    Sources: Ba, Kiros and Hinton, "Layer normalization" (2016); Zhang and Sennrich, "Root mean
    square layer normalization" (2019); Ulyanov, Vedaldi and Lempitsky, "Instance normalization"
    (2016); Wu and He, "Group normalization" (2018).
    """

    name: ClassVar[str] = "fuse-normalizations"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_normalizations.rules import RULES

        return rewrite(model, context, RULES)
