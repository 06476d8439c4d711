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
    """Compute once what is computed twice, and store once what is stored twice."""

    name: ClassVar[str] = "merge-duplicates"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.merge_duplicates.rules import RULES

        return rewrite(model, context, RULES)
