"""Remove nodes, initializers and functions that nothing uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["EliminateDead"]


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Remove nodes, initializers and functions that nothing uses, in subgraphs and functions too.

    Inputs and outputs of the graph stay, with their names, and so do optional outputs of nodes: how
    many a node has may decide what it does. A node of a domain that onnx does not define stays
    even if nothing uses its outputs, since it may act on something outside the model.
    """

    name: ClassVar[str] = "eliminate-dead"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.eliminate_dead.elimination import eliminate_dead

        return eliminate_dead(model)
