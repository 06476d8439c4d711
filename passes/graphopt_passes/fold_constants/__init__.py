"""Compute at compile time what does not depend on the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FoldConstants"]


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replaces what does not depend on the inputs by its value.

    - Constant nodes become initializers.
    - Operators whose inputs are all constant are evaluated: in numpy if they only move elements,
      whatever their type, and otherwise in ONNX Runtime.
    - Shape, Size and the integer arithmetic behind them are evaluated as far as shapes are known;
      a Reshape to a shape with dynamic dimensions gets a constant one where that is the same.

    Left to run time: random and stateful operators, QuantizeLinear and its kin, control flow,
    functions, custom domains, strings, sequences, and arithmetic on types that numpy does not know
    (bfloat16, float8, int4). An initializer that is also a graph input is a default value, not a
    constant. Only the shapes of the graph's inputs are trusted, since a runtime enforces no others.
    """

    name: ClassVar[str] = "fold-constants"
    stage: ClassVar[Stage] = Stage.SIMPLIFY
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    max_growth: int = 1 << 20
    """Bytes that folding may add to the model. A value that alone adds more is left to run time; if
    the others together would add more, so is every one of them that adds over 1 KiB."""

    def __post_init__(self) -> None:
        if self.max_growth < 0:
            raise ValueError(f"max_growth is a number of bytes, not {self.max_growth}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.fold_constants.folding import fold_constants

        return fold_constants(model, context, self.max_growth)
