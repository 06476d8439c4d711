"""Convert the model to another opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SetOpset"]


@dataclass(frozen=True)
class SetOpset(Pass):
    """Convert the model to another opset."""

    name: ClassVar[str] = "set-opset"
    stage: ClassVar[Stage] = Stage.ANY
    effect: ClassVar[Effect] = Effect.EXACT

    version: int
    """Of the default ONNX domain."""

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.set_opset.rules import RULES

        return rewrite(model, context, RULES)
