"""`equalize`: rescale channels so that one scale for each tensor fits them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Equalize(Pass):
    """Rescales channels between layers, for quantization; what the model computes stays the same.

    Each channel of a tensor is multiplied by a number in all that makes it and divided by it in
    all that reads it: cross-layer equalization and SmoothQuant in one. With calibration data each
    set of channels is rescaled only if quantizing the layers that read it then errs less on
    samples that were held out; without, by the weights alone. `quantize` does this by itself.

    Attributes:
        samples: how many calibration samples to use, at most; none for all.
    """

    name: ClassVar[str] = "equalize"
    stage: ClassVar[Stage] = Stage.COMPRESS
    effect: ClassVar[Effect] = Effect.EXACT

    samples: int | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError("samples must be at least 1")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.equalize.implementation import run

        return run(self, model, context)
