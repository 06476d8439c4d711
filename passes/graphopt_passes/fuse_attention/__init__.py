"""Make Attention (opset 23) of the nodes that spell it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.pipeline.base import Effect, Pass, PassContext, PassResult, Stage

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseAttention"]


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Make Attention (opset 23) of the nodes that spell it out.

    Scaled dot-product attention, MatMul(Softmax(MatMul(Q, K^T) * scale + mask), V) of four
    dimensions (batch, heads, sequence, features), becomes one operator: with the scale wherever it
    stands, the Transpose of the keys, a mask that is added, casts around the Softmax, and the
    causal mask where a constant is exactly that. Around Attention the splitting of heads, the
    merging (Reshape and Transpose), a packed projection of Q, K and V, and keys and values that are
    repeated for groups of queries are taken in too: the operator does all of it by itself.

    Attention differs from the nodes in two corners. A query from which the mask hides every key, by
    -inf or the lowest number of the type, gets 0 instead of NaN or a mean. And the guard that
    PyTorch exports against it, Where(IsNaN(p), 0, p), turns any other NaN to 0 as well, which
    Attention does not. So a mask must be known to hide no whole row and to be no larger than the
    scores, and there must be no guard; or you say, by `assume_regular`, that it does not matter.

    The pass is in no preset, since few runtimes have the operator. It needs opset 23 or newer
    (`set-opset{version=23}`).
    The operator: https://onnx.ai/onnx/operators/onnx__Attention.html. The method: Vaswani et al.,
    Attention Is All You Need, 2017; groups of queries: Ainslie et al., GQA, 2023.

    Args:
        assume_regular: take it that masks fit the scores and leave every query a key, and that no
            score is NaN, where the model does not prove it.
    """

    name: ClassVar[str] = "fuse-attention"
    stage: ClassVar[Stage] = Stage.FUSE
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_facts: ClassVar[bool] = True

    assume_regular: bool = False

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        from graphopt.rewriting import rewrite
        from graphopt_passes.fuse_attention.rules import rules

        return rewrite(model, context, rules(self.assume_regular))
