"""Remove operators that hand on their input as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["EliminateNoops"]


@dataclass(frozen=True)
class EliminateNoops(Pass):
    """Remove operators that hand on their input as it is.

    - Identity, Dropout in inference mode, Cast and CastLike to the type that a value has already,
      elements of sequences and optionals that are made in the model, and how many there are.
    - Reshape, Expand, Flatten, Squeeze, Unsqueeze, Tile, Slice, Split, Transpose, Pad, Gather,
      DepthToSpace and Concat that leave shape and order as they are, dynamic dimensions included;
      inputs of a Concat that are empty; scatters that overwrite everything, Gathers by a Range over
      everything or by the places of all elements, Trilu of a triangle that is all, Einsum that
      keeps the axes.
    - Arithmetic and logic with a neutral element (times 1, to the power of 1, minus +0.0, plus
      -0.0, and true, ...), a Where that always takes one branch, a Sum or Max of one operand
      or of one value, limits that the type has anyway.
    - Poolings, reductions and Resizes that look at one element at a time.
    - What the node before has done already: Relu of what is not negative, rounding of what is
      rounded, Abs of Abs.

    All of it is exact to the bit. So some stay that look as if they did nothing: plus +0.0 (it
    makes +0.0 of -0.0; fuse-affine may drop it), a Clip of floats without bounds (it makes an
    infinity the largest number), sums and means of one float, poolings of a single place. ONNX
    defines Where as a choice, and that is what remains, although ONNX Runtime may give +0.0 where
    it chooses -0.0; and the sign bit of a NaN means nothing.

    An operator between an input of the graph and an output stays, since both keep their names.
    """

    name: ClassVar[str] = "eliminate-noops"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.eliminate_noops.rules import RULES

        return rewrite(model, context, RULES)
