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
    """Folds Pad into the pads of the Conv, AveragePool or MaxPool behind it.

    Zeros go into a Conv; into an AveragePool, which then counts them (count_include_pad); and into
    a MaxPool of what is surely not negative, such as the output of a Relu, since a MaxPool pads
    with minus infinity. Minus infinity goes into any MaxPool.

    A Pad stays, and the report says why, if it crops, pads batch or channels, writes other values
    or copies them (reflect, edge, wrap), or if they are not constant; if its result is used
    elsewhere too; or if what is behind it works out its own padding (auto_pad SAME), rounds its
    size up (ceil_mode), or would pad a pooling window's whole width, which runtimes refuse.
    """

    name: ClassVar[str] = "fuse-pad"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_pad.rules import RULES

        return rewrite(model, context, RULES)
