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
    """Merge chains of Reshape, Transpose, Cast, Slice, Concat, Clip and the like."""

    name: ClassVar[str] = "collapse-chains"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.collapse_chains.rules import RULES

        return rewrite(model, context, RULES)
