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
    """Inlines functions, and control flow whose course is constant.

    - Calls of the model's own functions, also those that stand for an operator of ONNX: the body
      takes the place of the call. The functions themselves stay as they are; `eliminate-dead`
      removes those that nothing calls any more.
    - If with a constant condition, or with two branches that are the same.
    - Loop that runs a known number of times: not at all, once, or a few times, whether or not
      shapes change on the way. What it collects becomes a Concat.

    Results keep their names; what comes from inside a function is called after the call, as in
    `call/inner`.

    A call stays where an operator of the body means something else in the opset of the model than
    in that of the function, where a graph is passed as an attribute, and where the body would be
    larger than 100,000 nodes. Functions that call themselves are an error. Scan and SequenceMap
    stay. So does a Loop that collects values but never runs: their shape is not known then.
    """

    name: ClassVar[str] = "inline"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    max_unroll: int = 8
    """A Loop that runs more often stays."""
    max_nodes: int = 256
    """A Loop that runs more than once and would become more nodes than this stays."""

    def __post_init__(self) -> None:
        if self.max_unroll < 0 or self.max_nodes < 0:
            raise ValueError("max_unroll and max_nodes are 0 or more")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.inline.inlining import inline

        return inline(model, context, self.max_unroll, self.max_nodes)
