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
    """Remove operators that hand on their input as it is."""

    name: ClassVar[str] = "eliminate-noops"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.eliminate_noops.rules import RULES

        return rewrite(model, context, RULES)
