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
    """Converts the model to another opset, up or down.

    Only nodes whose operator is defined anew between the two opsets are touched: each is converted
    by onnx's own converter, alone, with what is certain about its inputs. Everything else stays as
    it is: weights (also those in files of their own), names, metadata, subgraphs, other domains.
    The IR version is raised where the opset came with a newer one.

    It is an error where onnx has no conversion, where its conversion changes results (Hardmax
    across opset 13, the scores of Attention across opset 24), or where a type is not allowed in the
    other opset: the message names the operator. What it leaves out of a Resize or Upsample before
    opset 11, how pixels are related, is put in. Functions carry
    opsets of their own and are not converted: put `inline,eliminate-dead` ahead.
    """

    name: ClassVar[str] = "set-opset"
    stage: ClassVar[Stage] = Stage.ANY
    effect: ClassVar[Effect] = Effect.EXACT

    version: int
    """Of the default ONNX domain, 7 or newer."""

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.set_opset.conversion import set_opset

        return set_opset(model, context, self.version)
