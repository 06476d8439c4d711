"""Merge chains of Reshape, Transpose, Cast, Slice, Concat, Clip and the like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CollapseChains"]


@dataclass(frozen=True)
class CollapseChains(Pass):
    """Makes one operator of several in a row, or none where they undo one another.

    - Reshape, Flatten, Squeeze, Unsqueeze, and Transposes that move axes of size 1 only;
      Transposes; Reshape of a Gather with constant indices, Gathers of one value in a Concat; axes
      of size 1 put ahead of an operand that is broadcast anyway.
    - Casts, where the first loses nothing.
    - Slices, Gathers, Concats; what takes a Concat apart again, or puts a Split together again.
    - Clip with Clip or Relu, Min with Max; Not, Neg, Abs and rounding; Pads, Expands, Tiles.
    - QuantizeLinear of DequantizeLinear with the same parameters.

    Exact to the bit in ONNX Runtime, and that is why some of it stays: a Reshape whose 0 copies a
    dimension that is not known; Casts that round, truncate or overflow on the way; Slices from the
    end of an axis of unknown size, and those that may become a Split; Clips whose limits are not
    constants or cross; what would change the sign of a zero (Min and Max with 0, Where of Not) or
    let infinity pass (Relu, then a Clip without a maximum); scales so small or large that not every
    integer comes back. What is used elsewhere, or is an output, stays too.
    """

    name: ClassVar[str] = "collapse-chains"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.collapse_chains.rules import RULES

        return rewrite(model, context, RULES)
