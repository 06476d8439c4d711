"""Move Transposes together until they cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PushTransposes"]


@dataclass(frozen=True)
class PushTransposes(Pass):
    """Moves Transposes through other operators where that leaves fewer of them.

    Around each Transpose it takes the region of nodes that give the same numbers in another layout:
    elementwise operators with constants and with one another, activations, Cast, Where, Concat,
    Split, Slice, Pad, Gather, Tile, Expand, Softmax, ArgMax, QuantizeLinear and DequantizeLinear,
    Squeeze and Unsqueeze, reductions of integers. Axes, amounts and constants are laid out anew. Of
    all choices of which nodes to move, a minimum cut gives the one with the fewest Transposes; if
    that is no fewer than now, nothing changes. A Transpose that only moves dimensions of size 1
    counts two thirds.

    Inputs and outputs keep their layout. Reductions of floats stay, since their sums would be
    added up in another order; so do MatMul, Conv, Resize and all else. A large constant that is
    shared with others is not stored twice. A region has at most 64 nodes.

    Method: ONNX Runtime's transpose optimizer moves Transposes one node at a time by estimates of
    cost; here the region is decided on as a whole (Edmonds and Karp, 1972).
    """

    name: ClassVar[str] = "push-transposes"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.push_transposes.rules import RULES

        return rewrite(model, context, RULES)
