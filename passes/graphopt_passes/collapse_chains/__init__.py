"""Merges chains of Reshape, Transpose, Cast, Slice, Concat, Clip and the like."""

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

    - Reshape, Flatten, Squeeze, Unsqueeze, and Transposes that only move dimensions of size 1: one
      view, also where it stands on both sides of a Transpose. Transposes of Transposes.
    - Casts, where the first loses nothing.
    - Slices, Gathers, Concats, Pads, Expands and Tiles of their own kind; what picks one operand of
      a Concat; a Concat of all parts of a Split or of Slices, a Split of what a Concat has joined.
    - Gather and Unsqueeze, as they pick sizes out of shapes.
    - Clip, Relu, and Min or Max of a constant: one Clip, or the inner one where that is enough.
    - Not, Neg and BitwiseNot twice; Abs of Neg; Abs, Sign and rounding of their own result; Where
      of Not; QuantizeLinear of DequantizeLinear with the same parameters.

    The result is the same to the bit for every size of the inputs. Hence these stay: a Reshape for
    which no constant shape says the same (a 0 copies from its own input; a -1 fails beside an empty
    dimension); Casts that round, overflow, or bring floats to integers; Slices from the end of an
    axis of unknown size; Clips whose minimum is above their maximum, Min and Max of 0 (they make
    one zero of both), and what would let infinity pass a Clip without a limit; Where of floats;
    scales that are no constants, or extreme. A value that is used elsewhere too stays, unless all
    its users can do without it.
    """

    name: ClassVar[str] = "collapse-chains"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.collapse_chains.rules import RULES

        return rewrite(model, context, RULES)
