"""Fold Pad into the Conv or pooling behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FusePad"]


@dataclass(frozen=True)
class FusePad(Pass):
    """Fold Pad into the Conv or pooling behind it."""

    name: ClassVar[str] = "fuse-pad"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_pad.rules import RULES

        return rewrite(model, context, RULES)
