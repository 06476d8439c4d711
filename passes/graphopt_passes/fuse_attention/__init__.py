"""Make Attention (opset 23) of the nodes that spell it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseAttention"]


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Make Attention (opset 23) of the nodes that spell it out."""

    name: ClassVar[str] = "fuse-attention"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_attention.rules import RULES

        return rewrite(model, context, RULES)
