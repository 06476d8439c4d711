"""`cluster-weights`: each weight as indices into a table of a few values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.pipeline.base import Effect, MinOpset, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ClusterWeights"]


@dataclass(frozen=True)
class ClusterWeights(Pass):
    """Stores weights as indices into codebooks of 2^bits values, found by k-means.

    The values lie where the weights are, not at equal steps: at the same bits less is lost than by
    linear quantization. A Gather computes the weight, exactly, in any runtime. With up to 4 bits
    the indices are uint4, for which the model is converted to opset 21; where that cannot be done,
    or the target does not read them (TensorRT), they are bytes.

    It is the file that shrinks, and nothing else: ONNX Runtime makes floats of it once when it
    loads the model, and TensorRT gathers at every run from indices that it holds in 32 bits.
    A later `fold-constants` undoes it where the indices are bytes and the model grows by no more
    than it may (1 MiB): put it last.

    Attributes:
        bits: of an index, 2 to 8; up to 5 with a codebook for each channel.
        per: one codebook for each output `channel`, or one for the whole `tensor`. Channels of few
            numbers share one in any case.
        keep_zeros: whether weights that are 0 stay 0, as in a pruned model.
        embeddings: also the tables that Gather reads rows of.
        min_elements: smaller weights stay as they are.
        exclude: names of nodes, patterns such as `/head/*`, or operators such as `Gemm`, the
            weights of which stay as they are.
    """

    name: ClassVar[str] = "cluster-weights"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    effect: ClassVar[Effect] = Effect.LOSSY
    requires: ClassVar[tuple[MinOpset, ...]] = (MinOpset(11),)  # GatherElements

    bits: int = 4
    per: Literal["tensor", "channel"] = "channel"
    keep_zeros: bool = False
    embeddings: bool = False
    min_elements: int = 1024
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        most = 5 if self.per == "channel" else 8
        if not 2 <= self.bits <= most:
            raise ValueError(f"bits must be 2 to {most} per {self.per}, not {self.bits}")
        if self.min_elements < 1:
            raise ValueError(f"min_elements must be at least 1, not {self.min_elements}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.cluster_weights.implementation import run

        return run(self, model, context)
