"""Keep images in the blocked layout of ONNX Runtime's float kernels for CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["KeepBlocked"]


@dataclass(frozen=True)
class KeepBlocked(Pass):
    """Keep images in the blocked layout of ONNX Runtime's float kernels for CPUs.

    These hold 16 channels (8 without AVX-512) of a pixel side by side ("NCHWc") and hand the image
    on like that, from Conv to Conv. An operator without such a kernel has it reordered, ahead of it
    and behind. The pass says the same with operators that have one:

    - A gate of one number for each channel, as in squeeze and excite, is repeated by a nearest
      Resize to the size of the image, and then multiplied: element by element, no broadcasting.
      The size has to be known, and the channels a multiple of 16.
    - The mean over height and width that drops these axes is a GlobalAveragePool and a Flatten.

    It is for `--target onnxruntime-cpu`, on which `quantize` ends with it, and does nothing for
    others. Run it last: `fuse-layout` takes the Resize for superfluous, as elsewhere it is.
    """

    name: ClassVar[str] = "keep-blocked"
    stage: ClassVar[Stage] = Stage.FINALIZE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.keep_blocked.rules import RULES

        if not context.target.blocked_channels:
            note = f"the target '{context.target.name}' has no blocked layout"
            return PassResult(model, False, notes=(note,))
        return rewrite(model, context, RULES)
