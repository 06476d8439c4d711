"""Inline functions, and control flow whose course is constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Inline"]


@dataclass(frozen=True)
class Inline(Pass):
    """Inline functions, and control flow whose course is constant."""

    name: ClassVar[str] = "inline"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.inline.rules import RULES

        return rewrite(model, context, RULES)
