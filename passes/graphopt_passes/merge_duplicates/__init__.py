"""Compute once what is computed twice, and store once what is stored twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MergeDuplicates"]


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Computes once what is computed twice, and stores once what is stored twice.

    - Nodes with the same operator, attributes (a default may be spelt out or not) and inputs; those
      of Add, Mul, And, Or, Xor, Equal and the like in either order. If, Loop and Scan too, where
      what they contain is the same.
    - Initializers and Constant nodes with the same type, shape and bits: 0.0 is not -0.0. Weights
      are only read where others of the same type and shape begin and end alike.

    A node in a subgraph may come to use a value of a graph around it, never the other way round.

    Left alone: random operators, domains that onnx does not define, and two values that are both
    outputs of the graph. Initializers that are inputs too are no constants. Floating-point operands
    are only swapped if one of them is a constant without NaN: of two NaNs a runtime
    hands on the first.

    Value numbering, in one walk (Alpern, Wegman, Zadeck 1988; Briggs, Cooper, Simpson 1997).
    """

    name: ClassVar[str] = "merge-duplicates"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.merge_duplicates.merging import merge_duplicates

        return merge_duplicates(model, context)
