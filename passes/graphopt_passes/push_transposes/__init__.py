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
    """Move Transposes together until they cancel."""

    name: ClassVar[str] = "push-transposes"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.push_transposes.rules import RULES

        return rewrite(model, context, RULES)
