"""Fold scales and shifts per channel into the convolution or matrix product beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseAffine"]


@dataclass(frozen=True)
class FuseAffine(Pass):
    """Fold scales and shifts per channel into the convolution or matrix product beside them."""

    name: ClassVar[str] = "fuse-affine"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_affine.rules import RULES

        return rewrite(model, context, RULES)
