"""`quantize-weights`: weights in 4 or 8 bits, computed in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["QuantizeWeights"]


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Stores the weights of MatMul, Gemm and Conv in 4 or 8 bits; data stays float.

    Each weight becomes a low-precision initializer with a DequantizeLinear behind it, in the type
    that the weight had. The file and the memory traffic shrink to a half or an eighth; no
    calibration data is needed. Blocks need opset 21 and float16 weights opset 19, to which the
    model is converted where it is older.

    For TensorRT, int4 in blocks and int8 or fp8 by output channel are what its kernels read
    directly; Convs dequantize theirs at every run. ONNX Runtime on a CPU also rounds the data to
    int8 in such a MatMul, unless the session says `session.qdq_matmulnbits_accuracy_level=1`.

    Attributes:
        format: what the numbers become. int4 is for MatMul and Gemm only.
        block: how many numbers along the input axis share a scale, 16 to 128; none means 32 for
            int4, and a whole output channel for int8 and fp8. Where the target needs blocks of one
            size, the largest that divides the axis and is not above this.
        symmetric: false stores unsigned integers with zero points, which TensorRT refuses.
        method: how a scale is chosen: `mse` for the least squared error, `minmax` to clip nothing.
        embeddings: also the tables that Gather reads rows of.
        min_elements: smaller weights stay as they are.
        exclude: names of nodes, patterns such as `/head/*`, or operators such as `Gemm`, the
            weights of which stay float.
    """

    name: ClassVar[str] = "quantize-weights"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    effect: ClassVar[Effect] = Effect.LOSSY

    format: Literal["int4", "int8", "fp8"] = "int4"
    block: int | None = None
    symmetric: bool = True
    method: Literal["mse", "minmax"] = "mse"
    embeddings: bool = False
    min_elements: int = 1024
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.block is not None and not 16 <= self.block <= 128:
            raise ValueError(f"block must be 16 to 128, not {self.block}")
        if self.format == "fp8" and not self.symmetric:
            raise ValueError("fp8 is symmetric: it has no zero point")
        if self.min_elements < 1:
            raise ValueError(f"min_elements must be at least 1, not {self.min_elements}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt_passes.quantize_weights.implementation import run

        return run(self, model, context)
