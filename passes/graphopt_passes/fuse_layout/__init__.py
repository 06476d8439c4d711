"""Make one operator of Reshapes, Transposes, Slices and reductions that spell it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseLayout"]


@dataclass(frozen=True)
class FuseLayout(Pass):
    """Make one operator of Reshapes, Transposes, Slices and reductions that spell it out.

    - Reshape, Transpose, Reshape: DepthToSpace (both modes), SpaceToDepth (the one order of ONNX;
      the PixelUnshuffle of PyTorch has another), or a Transpose of more axes.
    - A reduction, ArgMax or ArgMin with a Squeeze, Unsqueeze, Reshape or Flatten that only drops or
      adds its axes: the reduction by itself, keepdims turned.
    - Reductions of reductions over other axes: one. ReduceSum divided by the count: ReduceMean.
      ReduceMean over all of an image: GlobalAveragePool, for which runtimes have better kernels;
      also with a Flatten behind, the head of a classifier, though one ReduceMean could be both.
    - Slices that cover an axis: Split. Gather, Slice or Split of one element with a Squeeze, or
      Gather with an Unsqueeze: one Gather. A part of a Shape: Shape with `start` and `end`.
    - Einsum: Transpose, ReduceSum, Mul, MatMul or Gemm, if it takes one of them alone.
    - Expand, Tile and nearest Resize ahead of an operator that broadcasts to the same shape anyway,
      also through the look-up in a table. An operator with a constant between two Reshapes that
      only add and drop axes of size one.
    - Initial states of zeros of LSTM, GRU and RNN, which are the default.

    Sizes need not be numbers: what counts is that they are known to be equal. Left alone, since it
    would take more nodes or be no better: scalar Gathers of neighbours (a Split and as many
    Squeezes), rolls (Slices and a Concat), a Reshape that could be a Flatten.
    """

    name: ClassVar[str] = "fuse-layout"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_layout.rules import RULES

        return rewrite(model, context, RULES)
