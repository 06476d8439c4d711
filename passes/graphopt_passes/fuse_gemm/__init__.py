"""Make Gemm of matrix products, biases and transposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseGemm"]


@dataclass(frozen=True)
class FuseGemm(Pass):
    """Makes one Gemm, MatMul or Conv of several linear nodes.

    - MatMul + Add of matrices becomes a Gemm, and Gemm + Add a Gemm with a bias, where the bias is
      constant or one row; a Sub of a constant likewise.
    - A Transpose of an operand becomes transA or transB, a factor behind a product of two
      activations alpha.
    - Reshape to a matrix, product, Reshape back becomes a MatMul (and an Add) of the whole tensor.
    - Two products with constant matrices in a row become one, and so do two Convs of which one is
      1x1, unless their weights together are smaller than the product of both.
    - `merge_parallel` makes one of several products or Convs of the same input with constant
      weights (query, key and value, say), and a Split, where that leaves fewer nodes.

    Left alone: products that may have another rank than 2, integers, biases that would broadcast
    the product, and values that are used elsewhere too.
    """

    name: ClassVar[str] = "fuse-gemm"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    merge_parallel: bool = False
    """Whether to make one of several products or Convs of the same input."""

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_gemm.rules import RULES, RULES_WITH_MERGES

        return rewrite(model, context, RULES_WITH_MERGES if self.merge_parallel else RULES)
