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
    and behind; so it does where the channels do not fill blocks. The pass says the same with
    operators and channels that stay in blocks:

    - A gate of one number for each channel, as in squeeze and excite, is repeated by a nearest
      Resize to the size of the image, and then multiplied: element by element, no broadcasting.
      The size has to be known, and the channels a multiple of 16.
    - The mean over height and width that drops these axes is a GlobalAveragePool and a Flatten.
    - Channels that are no multiple of 16 get others beside them, where a pool or a gate needs whole
      blocks; those that a Conv or a depthwise one could not take, up to a multiple of 4. Convs make
      them, of weights that are 0, and whoever sums over them has weights of 0 for them. In between
      are activations, depthwise Convs, pools, sums, gates, Resize, BatchNormalization; anything
      else that has a part in these channels, as Concat or an output, leaves them as they are. What
      the model computes stays the same, to the order of sums, as long as its numbers are finite.
      The kernels compute whole blocks anyway; but the weights in the file grow, by 10% at the most,
      or nothing is padded.

    It is for `--target onnxruntime-cpu`, on which `quantize` ends with it, and does nothing for
    others. Run it last: `fuse-layout` takes the Resize for superfluous, as elsewhere it is.

    Attributes:
        pad: whether channels may be added. Where blocks are of 8, or there are none (ARM), they
            cost time, a little.
    """

    pad: bool = True

    name: ClassVar[str] = "keep-blocked"
    stage: ClassVar[Stage] = Stage.FINALIZE
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.keep_blocked.implementation import keep_blocked

        return keep_blocked(self, model, context)
